#include "labels.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>

namespace metasd {
namespace {

std::string_view field_of(const char* text, const uint32_t* starts, int64_t line, int field) {
  std::string_view rest(text + starts[line], starts[line + 1] - starts[line] - 1);
  for (; field > 0; --field) {
    const size_t tab = rest.find('\t');
    if (tab == rest.npos) return {};
    rest.remove_prefix(tab + 1);
  }
  return rest.substr(0, rest.find('\t'));
}

bool is_line(std::string_view line, int64_t number) {
  char id[20];
  const auto end = std::to_chars(id, id + sizeof id, number).ptr;
  const size_t length = end - id;
  if (line.substr(0, length) != std::string_view(id, length)) return false;
  if (line.size() < length + 2 || line[length] != '\t' || line[length + 1] == '\t') return false;
  if (line.find_first_of(std::string_view("\r\0", 2)) != line.npos) return false;
  return std::count(line.begin() + length + 1, line.end(), '\t') <= 1;
}

}  // namespace

int64_t label_lines(const char* text, int64_t size, int64_t count, uint32_t* starts) {
  int64_t at = 0;
  for (int64_t line = 0; line < count; ++line) {
    starts[line] = static_cast<uint32_t>(at);
    const void* newline = at < size ? std::memchr(text + at, '\n', size - at) : nullptr;
    if (!newline) return line;
    const int64_t end = static_cast<const char*>(newline) - text;
    if (!is_line(std::string_view(text + at, end - at), line)) return line;
    at = end + 1;
  }
  starts[count] = static_cast<uint32_t>(at);
  return at == size ? -1 : count;
}

int64_t sort_labels(const char* text, const uint32_t* starts, int64_t count, int field,
                    uint32_t* order) {
  int64_t found = 0;
  for (int64_t line = 0; line < count; ++line)
    if (!field_of(text, starts, line, field).empty()) order[found++] = static_cast<uint32_t>(line);
  const auto before = [&](uint32_t a, uint32_t b) {
    const int difference = field_of(text, starts, a, field).compare(field_of(text, starts, b, field));
    return difference < 0 || (difference == 0 && a < b);
  };
  if (!std::is_sorted(order, order + found, before)) std::sort(order, order + found, before);
  return found;
}

int64_t repeated_label(const char* text, const uint32_t* starts, const uint32_t* order,
                       int64_t count, int field) {
  for (int64_t i = 1; i < count; ++i)
    if (field_of(text, starts, order[i - 1], field) == field_of(text, starts, order[i], field))
      return order[i];
  return -1;
}

}  // namespace metasd
