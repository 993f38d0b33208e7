# SPDX-License-Identifier: Apache-2.0
"""Muon for hidden matrices and AdamW for the rest, on flat buffers, so that a step is few kernels.

Every parameter becomes a view of one f32 buffer. Matrices of one shape lie side by side and are
orthogonalised as one batch. Nothing here reads a number back from the device, so a whole training
step (Captured) can be recorded as a CUDA graph and replayed.
"""

import math
import time

import torch


def prepare_device():
    """("cuda", bf16) or ("cpu", f32): where training runs and the type of its activations.

    Fused attention is limited to flash attention: the memory-efficient and cuDNN kernels gave
    illegal memory accesses in a first trial.
    """
    if not torch.cuda.is_available():
        return "cpu", torch.float32
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.benchmark = True
    return "cuda", torch.bfloat16


def orthogonal(g, steps=5):
    """The nearest orthogonal matrices of g [k,m,n], roughly, by Newton-Schulz iteration."""
    x = g.bfloat16() if g.is_cuda else g
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        b = torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, b, x, beta=3.4445)
    return (x.mT if tall else x).float()


class FlatOptimizer:
    """Updates named parameters.

    named: list of (name, parameter). is_hidden(name, parameter): whether Muon updates it.
    lr: peak rate of AdamW; muon_lr: of Muon, whose update has the root mean square 0.2 * muon_lr.
    """

    def __init__(self, named, is_hidden, lr, muon_lr, betas=(0.9, 0.98), decay=0.05, clip=1.0, ema=0.999):
        self.betas, self.decay, self.clip, self.ema_decay = betas, decay, clip, ema
        self.base_lr, self.base_muon_lr = lr, muon_lr
        hidden = [(n, p) for n, p in named if is_hidden(n, p)]
        shapes = sorted({self.shape(p) for _, p in hidden})
        self.named = [(n, p) for s in shapes for n, p in hidden if self.shape(p) == s]
        self.groups, at = [], 0
        for s in shapes:
            count = sum(self.shape(p) == s for _, p in hidden)
            self.groups.append((at, count, *s))
            at += count * s[0] * s[1]
        self.hidden_end = at
        self.named += [(n, p) for n, p in named if not is_hidden(n, p)]
        self.parameters = [p for _, p in self.named]
        device = self.parameters[0].device
        self.flat = torch.cat([p.detach().reshape(-1).float() for p in self.parameters]).to(device)
        self.grad, self.first = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        self.second = torch.zeros_like(self.flat[at:])
        self.ema = self.flat.clone()
        self.rate = torch.zeros((), device=device)  # share of the peak rates, set before each step
        self.steps = torch.zeros((), device=device)
        self.bind(self.flat)

    @staticmethod
    def shape(p):
        """(rows, columns) of a parameter seen as a matrix."""
        return p.shape[0], p.numel() // p.shape[0]

    def views(self, buffer):
        """(name, view of buffer) of each parameter."""
        at = 0
        for name, p in self.named:
            yield name, buffer[at : at + p.numel()].view(p.shape)
            at += p.numel()

    def bind(self, buffer):
        """Makes the parameters views of buffer."""
        for (_, view), p in zip(self.views(buffer), self.parameters):
            p.data = view

    def gradients(self, loss):
        """Fills the flat gradient with that of loss."""
        found = torch.autograd.grad(loss, self.parameters)
        torch.cat([g.reshape(-1).float() for g in found], out=self.grad)

    @torch.no_grad()
    def step(self):
        """One update from the flat gradient."""
        self.steps += 1
        self.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.grad.mul_((self.clip / (self.grad.norm() + 1e-6)).clamp(max=1.0))
        at = self.hidden_end
        self.adam(self.flat[at:], self.grad[at:], self.first[at:])
        g, m = self.grad[:at], self.first[:at]
        m.mul_(0.95).add_(g)
        g.add_(m, alpha=0.95)
        for start, count, rows, columns in self.groups:
            part = slice(start, start + count * rows * columns)
            change = orthogonal(g[part].view(count, rows, columns)).reshape(-1)
            rate = self.base_muon_lr * self.rate
            scale = 0.2 * math.sqrt(max(rows, columns))
            self.flat[part].mul_(1 - rate * self.decay).sub_(change * (rate * scale))
        decay = torch.clamp((1 + self.steps) / (10 + self.steps), max=self.ema_decay)
        self.ema.lerp_(self.flat, 1 - decay)

    def adam(self, p, g, m):
        """AdamW without decay, in place, of the part that Muon leaves."""
        b1, b2 = self.betas
        m.lerp_(g, 1 - b1)
        self.second.mul_(b2).addcmul_(g, g, value=1 - b2)
        rate = self.base_lr * self.rate / (1 - b1**self.steps)
        p.sub_(rate * m / ((self.second / (1 - b2**self.steps)).sqrt() + 1e-8))

    def averaged(self):
        """{name: tensor} of the exponential moving average."""
        return {n: v.clone() for n, v in self.views(self.ema)}

    def resume_state(self):
        """What continuing needs: f32 weights, bf16 moments, the count of steps."""
        return {"flat": self.flat, "first": self.first.bfloat16(), "second": self.second.sqrt().bfloat16(),
                "steps": self.steps.reshape(1)}  # fmt: skip

    def load_resume_state(self, state):
        device = self.flat.device
        self.flat.copy_(state["flat"].to(device))
        self.ema.copy_(self.flat)
        self.first.copy_(state["first"].to(device).float())
        self.second.copy_(state["second"].to(device).float().pow(2))
        self.steps.copy_(state["steps"][0].to(device))


class Captured:
    """A training step, recorded as a CUDA graph at first use (called plainly on a CPU)."""

    def __init__(self, step):
        self.step, self.graph = step, None

    def __call__(self):
        if not torch.cuda.is_available():
            return self.step()
        if self.graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.step()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.step()
        self.graph.replay()
        return None


class Clock:
    """Time-boxed training: progress from 0 to 1, and the learning rate's share at each moment."""

    def __init__(self, minutes, warmup=300, hold=0.6, report=500):
        self.seconds, self.warmup, self.hold, self.report = 60 * minutes, warmup, hold, report
        self.begin, self.done = time.time(), 0
        self.log = []

    def share(self):
        """Linear warm-up, constant, then linear to zero over the last 1 - hold of the time."""
        progress = (time.time() - self.begin) / self.seconds
        end = 1.0 if progress < self.hold else max(0.0, (1 - progress) / (1 - self.hold))
        return min(1.0, (self.done + 1) / self.warmup) * end

    def running(self):
        """Whether time is left; waits for the device now and then so that the clock is true."""
        if self.done % 20 == 0 and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.time() - self.begin < self.seconds

    def tick(self, losses):
        """Counts a step; prints and clears the running sum of losses (a 1-element tensor) at times."""
        self.done += 1
        if self.done % self.report == 0:
            mean = (losses / self.report).tolist()
            losses.zero_()
            spent = time.time() - self.begin
            self.log.append((self.done, round(spent, 1), [round(m, 5) for m in mean]))
            speed = 1000 * spent / self.done
            print(f"step {self.done}  {spent:6.1f} s  {speed:6.2f} ms/step  losses {mean}", flush=True)
