// Scores straight from compressed tables: what a table is, what is asked, and the engine of one
// instruction set. Nothing here trusts a table that `check` has not passed.
#pragma once

#include <cstdint>
#include <string>

namespace metasd {

enum class Columns { kAll, kDelta8, kIndex16, kBits };
enum class Values { kF32, kF16, kBF16, kI8, kU8, kU4, kHalf3, kHalf2, kU2 };

// Rows of weights; `scale` (rows), where there is one, multiplies them.
//
// kAll: every row has `width` values. Otherwise row i has the values indptr[i] .. indptr[i + 1] in
// the columns that `columns` gives: a byte each, the gap to the column before it less one (kDelta8);
// 16 bits each, rising (kIndex16); or ceil(width / 8) bytes a row whose bit j is column j (kBits).
//
// kU8, kU4, kU2 (only with kAll) are whole numbers plus 128, 8 and 1; kHalf3 and kHalf2 are halves,
// -7/2 -5/2 ... 7/2 plus 7/2 and -3/2 -1/2 1/2 3/2 plus 3/2. Of a row of H = ceil(width / p) bytes, p
// values a byte, byte i holds columns i, H + i, 2 H + i ..., the lowest bits first. A row of kHalf3 has,
// with H = ceil(width / 8), 2 H bytes like this of the lower two bits, and H bytes of the upper one.
struct CodedTable {
  Columns code;
  Values kind;
  int64_t rows, width;
  const uint32_t* indptr;
  const uint8_t* columns;
  int64_t column_bytes;
  const uint8_t* values;
  int64_t value_bytes;
  const float* scale;
};

struct ScoreArgs {
  CodedTable table;
  const float* queries;  // (count_queries, table.width)
  int64_t count_queries;
  int64_t first, count;  // the rows scored: first + 0 .. count - 1,
  const int64_t* rows;   // or first + rows[0 .. count - 1]
  int64_t k;             // 0: all scores
  const int64_t *known_indptr, *known_indices;  // places in 0 .. count - 1 to leave out, or null
  float inverse_temperature;
  float* scores;      // (count_queries, k), the best first; or (count_queries, count)
  int64_t* indices;   // (count_queries, k): places in 0 .. count - 1, -1 where there are no more
  float* logsumexp;   // (count_queries), of all scores / temperature; or null
  int threads;
};

struct Engine {
  const char* isa;
  int64_t (*score)(const ScoreArgs&);  // how many scores were NaN
  void (*decode)(const CodedTable&, const int64_t* index, int64_t count, float* out);
  int64_t (*check)(const CodedTable&, int threads);  // the first row that is wrong, or -1
};

const Engine& engine();
bool select_engine(const char* isa);
bool engine_supported(const char* isa);

}  // namespace metasd
