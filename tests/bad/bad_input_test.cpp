// SPDX-License-Identifier: Apache-2.0
// Runs the program on one bad input and checks that it says what is wrong, and leaves nothing half
// done.
//
//   bad_input_test CASE_FOLDER PROGRAM SOURCE      exit status 0 passed, 1 failed, 77 skipped
//
// tests/bad/README.md says what a case is.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include <signal.h>
#include <sys/wait.h>
#include <toml++/toml.h>
#include <unistd.h>

namespace fs = std::filesystem;

namespace {

constexpr auto kTimeLimit = std::chrono::seconds(30);
constexpr int kSkipped = 77;

/// The words in braces that a case may use, and what they stand for.
struct Places {
  std::string scratch_case, tmp, source, program;

  std::string fill(std::string text) const {
    const std::pair<const char*, const std::string*> words[] = {
        {"{case}", &scratch_case}, {"{tmp}", &tmp}, {"{source}", &source}, {"{program}", &program}};
    for (const auto& [word, value] : words) {
      for (size_t at; (at = text.find(word)) != std::string::npos;) {
        text.replace(at, std::string_view(word).size(), *value);
      }
    }
    return text;
  }
};

struct Case {
  std::vector<std::string> arguments;  ///< the command and its arguments
  std::string needs, setup, wrap;      ///< shell lines, or empty
  int status = 2;
  std::string error, hint;          ///< regular expressions of whole lines
  std::vector<std::string> absent;  ///< files that must not be there afterwards
};

Case read_case(const fs::path& folder, const Places& places) {
  const toml::table table = toml::parse_file((folder / "case.toml").string());
  for (const auto& [key, value] : table) {
    static const std::regex kKeys("command|args|needs|setup|wrap|status|error|hint|absent");
    if (!std::regex_match(std::string(key.str()), kKeys)) {
      throw std::runtime_error("case.toml: unknown key " + std::string(key.str()));
    }
  }
  const auto text = [&](const char* key) {
    return places.fill(table[key].value_or(std::string()));
  };
  const auto list = [&](const char* key, std::vector<std::string>& to) {
    if (const auto* array = table[key].as_array()) {
      for (const auto& item : *array) to.push_back(places.fill(item.value_or(std::string())));
    }
  };
  Case c;
  if (const std::string command = text("command"); !command.empty()) c.arguments.push_back(command);
  list("args", c.arguments);
  list("absent", c.absent);
  c.needs = text("needs");
  c.setup = text("setup");
  c.wrap = text("wrap");
  c.status = table["status"].value_or(2);
  c.error = table["error"].value_or(std::string());
  c.hint = table["hint"].value_or(std::string());
  if (c.error.empty() || c.hint.empty())
    throw std::runtime_error("case.toml: error and hint are needed");
  return c;
}

struct Outcome {
  int status = 0;  ///< exit status, or -signal
  bool timed_out = false;
  std::string out, err;
};

std::string slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Runs a command in `folder` as a process group of its own, its output in files below `tmp`.
Outcome run(const std::vector<std::string>& command, const fs::path& folder, const fs::path& tmp) {
  const fs::path out = tmp / "stdout", err = tmp / "stderr";
  const pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    std::vector<char*> argv;
    for (const auto& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    if (!std::freopen(out.c_str(), "w", stdout) || !std::freopen(err.c_str(), "w", stderr) ||
        !std::freopen("/dev/null", "r", stdin) || ::chdir(folder.c_str()) != 0) {
      ::_exit(126);
    }
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  Outcome outcome;
  int state = 0;
  const auto deadline = std::chrono::steady_clock::now() + kTimeLimit;
  while (::waitpid(child, &state, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      outcome.timed_out = true;
      ::kill(-child, SIGKILL);
      ::waitpid(child, &state, 0);
      break;
    }
    ::usleep(10'000);
  }
  outcome.status = WIFEXITED(state) ? WEXITSTATUS(state) : -WTERMSIG(state);
  outcome.out = slurp(out);
  outcome.err = slurp(err);
  return outcome;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// All that is wrong with the outcome, a line each.
std::vector<std::string> faults(const Case& c, const Outcome& outcome, const fs::path& tmp) {
  std::vector<std::string> found;
  if (outcome.timed_out) found.push_back("ran past the time limit");
  if (outcome.status != c.status) {
    found.push_back("exit status " + std::to_string(outcome.status) + ", expected " +
                    std::to_string(c.status));
  }
  const auto lines = lines_of(outcome.err);
  if (lines.size() < 2) {
    found.push_back("fewer than two lines on stderr");
  } else {
    const auto check = [&](const std::string& line, const std::string& pattern, const char* name) {
      if (!std::regex_match(line, std::regex(pattern))) {
        found.push_back(std::string(name) + " line: " + line + "\n    expected: " + pattern);
      }
    };
    check(lines[lines.size() - 2], "error: " + c.error, "error");
    check(lines.back(), "hint: " + c.hint, "hint");
  }
  for (const auto& path : c.absent) {
    if (fs::exists(path)) found.push_back(path + " was left behind");
  }
  for (const auto& entry : fs::recursive_directory_iterator(tmp)) {
    const std::string name = entry.path().filename().string();
    std::error_code code;  // of links that lead in a circle
    const bool unfinished =
        name.ends_with(".tmp") || (name.starts_with(".step-") && entry.is_directory(code));
    if (unfinished) found.push_back(entry.path().string() + " was left behind");
  }
  return found;
}

int run_case(const fs::path& folder, const std::string& program, const std::string& source) {
  std::string pattern = (fs::temp_directory_path() / "fluxlora-bad-XXXXXX").string();
  const fs::path tmp = ::mkdtemp(pattern.data());
  const fs::path scratch = tmp / "case";
  fs::copy(folder, scratch, fs::copy_options::recursive);
  const Places places{scratch.string(), tmp.string(), source, program};
  const Case c = read_case(folder, places);
  ::setenv("HOME", tmp.c_str(), 1);
  ::setenv("XDG_CACHE_HOME", (tmp / "cache").c_str(), 1);

  int result = 1;
  const auto shell = [&](const std::string& line) {
    return run({"/bin/sh", "-c", line}, scratch, tmp);
  };
  if (!c.needs.empty() && shell(c.needs).status != 0) {
    std::cout << "skipped: `" << c.needs << "` does not work here\n";
    result = kSkipped;
  } else if (const Outcome made = c.setup.empty() ? Outcome{} : shell("set -e; " + c.setup);
             made.status != 0) {
    std::cout << "setup failed with status " << made.status << "\n" << made.out << made.err;
  } else {
    std::vector<std::string> command{program};
    if (!c.wrap.empty()) command = {"/bin/sh", "-c", c.wrap, "sh", program};
    command.insert(command.end(), c.arguments.begin(), c.arguments.end());
    const Outcome outcome = run(command, scratch, tmp);
    const auto found = faults(c, outcome, tmp);
    for (const auto& fault : found) std::cout << "  " << fault << "\n";
    if (!found.empty()) std::cout << "stderr:\n" << outcome.err << "stdout:\n" << outcome.out;
    result = found.empty() ? 0 : 1;
  }
  std::error_code ignored;
  fs::permissions(scratch, fs::perms::owner_all, fs::perm_options::add, ignored);
  fs::remove_all(tmp, ignored);
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "bad_input_test CASE_FOLDER PROGRAM SOURCE\n";
    return 1;
  }
  try {
    return run_case(argv[1], argv[2], argv[3]);
  } catch (const std::exception& e) {
    std::cout << e.what() << "\n";
    return 1;
  }
}
