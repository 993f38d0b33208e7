// SPDX-License-Identifier: Apache-2.0
#include "config/import/peer_table.h"

#include <toml++/toml.h>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora::config {
namespace {

std::map<std::string, std::string> texts(const toml::table& table) {
  std::map<std::string, std::string> found;
  for (const auto& [key, value] : table) found[std::string(key.str())] = value.value_or("");
  return found;
}

PeerTable load(const std::string& peer) {
  const std::string text = read_text("builtin:peers/" + peer + ".toml");
  const toml::table root = toml::parse(std::string_view(text));
  PeerTable table;
  table.peer = peer;
  table.direct = texts(*root["direct"].as_table());
  table.defaults = texts(*root["default"].as_table());
  for (const toml::node& name : *root["translated"]["options"].as_array())
    table.translated.insert(name.value_or(std::string()));
  const std::pair<const char*, Fate> fates[] = {
      {"done", Fate::done}, {"lost", Fate::lost}, {"elsewhere", Fate::elsewhere}};
  for (const auto& [name, fate] : fates)
    for (const auto& [would, options] : *root[name].as_table())
      for (const toml::node& option : *options.as_array())
        table.notes[option.value_or(std::string())] = {fate, std::string(would.str())};
  return table;
}

}  // namespace

const Note* PeerTable::note(const std::string& option) const {
  if (const auto exact = notes.find(option); exact != notes.end()) return &exact->second;
  for (size_t dot = option.rfind('.'); dot != std::string::npos && dot > 0;
       dot = option.rfind('.', dot - 1)) {
    const auto above = notes.find(option.substr(0, dot) + ".*");
    if (above != notes.end()) return &above->second;
  }
  return nullptr;
}

const PeerTable& peer_table(const std::string& peer) {
  static const std::map<std::string, PeerTable> all{{"kohya", load("kohya")},
                                                    {"ai-toolkit", load("ai-toolkit")},
                                                    {"diffusers", load("diffusers")}};
  const auto found = all.find(peer);
  CHECK(found != all.end(), peer);
  return found->second;
}

}  // namespace fluxlora::config
