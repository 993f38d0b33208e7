# SPDX-License-Identifier: Apache-2.0
"""The judge: a small network that names what a picture shows, and a command that scores folders.

    python judge.py prompts DIR prompts.json    # DIR/*.png in the order of the prompts
    python judge.py subject DIR                 # share of DIR's pictures that show the new subject
    python judge.py renders                     # the judge's own score on fresh renders
"""

import argparse
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import world
from pictures import read_picture

HERE = pathlib.Path(__file__).parent
HEADS = {"layout": 7, "background": 6, "pattern": 3, "size": 3,
         "kind 0": 10, "colour 0": 7, "kind 1": 10, "colour 1": 7}  # fmt: skip


class Step(nn.Module):
    """Convolution, batch norm, ReLU; with a residual where the shape stays."""

    def __init__(self, inputs, outputs, stride, size=3):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = inputs == outputs and stride == 1

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x)))
        return x + y if self.residual else y


class Judge(nn.Module):
    """Pictures [B,3,128,128] in 0..1 to {head: logits}; heads as in Scene.labels()."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            Step(3, 24, 2, 5), Step(24, 48, 2), Step(48, 48, 1), Step(48, 96, 2), Step(96, 96, 1),
            Step(96, 96, 2), Step(96, 96, 1), nn.Conv2d(96, 24, 1), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(24 * 64, sum(HEADS.values()))

    def forward(self, x):
        return dict(zip(HEADS, self.head(self.body(x * 2 - 1)).split(list(HEADS.values()), dim=1)))

    @torch.no_grad()
    def answers(self, pictures):
        """int64 [B,8] on the CPU: the most likely class of each head."""
        found = []
        for part in pictures.split(256):
            found.append(torch.stack([logits.argmax(1) for logits in self(part.float()).values()], dim=1))
        return torch.cat(found).cpu()


def load_judge(path=HERE / "judges/judge.safetensors", device="cpu"):
    judge = Judge()
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()})
    return judge.to(device).eval()


def score(answers, labels):
    """{attribute: share of right answers} over the attributes that labels [N,8] state (not -1)."""
    right, stated = answers == labels, labels >= 0
    found = {}
    for name, columns in {"layout": [0], "background": [1], "pattern": [2], "size": [3],
                          "shape": [4, 6], "colour": [5, 7]}.items():  # fmt: skip
        known = stated[:, columns]
        if known.any():
            found[name] = round((right[:, columns] & known).sum().item() / known.sum().item(), 4)
    return found


def shape_table(answers, labels):
    """{shape: share right} over both slots."""
    table = {}
    for k, name in enumerate(world.KINDS):
        at = labels[:, [4, 6]] == k
        if at.any():
            table[name] = round((answers[:, [4, 6]] == k)[at].float().mean().item(), 3)
    return table


def subject_share(answers):
    """Share of pictures whose first object is the new subject, alone."""
    return ((answers[:, 4] == world.SUBJECT) & (answers[:, 0] < 5)).float().mean().item()


def read_folder(folder):
    """Pictures [N,3,128,128] of a folder in the order of their names."""
    files = sorted(f for f in pathlib.Path(folder).iterdir() if f.suffix in (".png", ".jpg", ".webp"))
    return torch.stack([read_picture(f) for f in files])


def judge_renders(judge, count=2000, seed="judge test"):
    """The judge's scores on fresh renders, and how it tells the subject from everything else."""
    from data import draw, make_scenes

    rows, labels, _, _ = make_scenes("judge", count, seed)
    labels = torch.from_numpy(labels).long()
    device = next(judge.parameters()).device
    answers = judge.answers(draw(rows, device)[0].float() / 255)
    figures = score(answers, labels)
    truth, said = labels[:, 4] == world.SUBJECT, answers[:, 4] == world.SUBJECT
    figures["subject found"] = round(said[truth].float().mean().item(), 4)
    figures["others called subject"] = round(said[~truth].float().mean().item(), 4)
    return figures, shape_table(answers, labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["prompts", "subject", "renders"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("prompts", nargs="?")
    options = parser.parse_args()
    judge = load_judge()
    if options.what == "renders":
        print(*judge_renders(judge), sep="\n")
        return
    answers = judge.answers(read_folder(options.folder))
    if options.what == "subject":
        print(f"{subject_share(answers):.3f} of {len(answers)} pictures show the subject")
    else:
        prompts = json.loads(pathlib.Path(options.prompts).read_text())[: len(answers)]
        print(json.dumps(score(answers, torch.tensor([p["labels"] for p in prompts])), indent=1))


if __name__ == "__main__":
    main()
