// Labels in a text of lines `id<TAB>label` or `id<TAB>label<TAB>human label`, with ids 0, 1, 2, ...
#pragma once

#include <cstdint>

namespace metasd {

// Writes where each of `count` lines starts, and where the last one ends, to starts[0 .. count].
// Returns the first line that is not as described, or -1.
int64_t label_lines(const char* text, int64_t size, int64_t count, uint32_t* starts);

// The lines that have a label in `field` (1 or 2), sorted by its bytes, to order; returns how many.
int64_t sort_labels(const char* text, const uint32_t* starts, int64_t count, int field,
                    uint32_t* order);

// A line whose label in `field` another line has too, in a sorted order; or -1.
int64_t repeated_label(const char* text, const uint32_t* starts, const uint32_t* order,
                       int64_t count, int field);

}  // namespace metasd
