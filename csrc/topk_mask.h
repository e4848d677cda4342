// Exact magnitude masks over several fp32 tables.
#pragma once

#include <cstdint>
#include <vector>

namespace metasd {

struct MaskedTable {
  const float* weights;
  uint32_t* mask;  // (rows, words), words = ceil(cols / 32)
  int64_t rows, cols, stride;
};

// Keeps the `keep` largest magnitudes of all tables together; among equal ones the lower index in the
// earlier table. Returns false, with the masks unspecified, if a weight is NaN.
bool topk_mask(const std::vector<MaskedTable>& tables, int64_t keep, int threads);

// The same with `keep` weights in every row of one table.
bool topk_mask_rows(const MaskedTable& table, int64_t keep, int threads);

// For tables spread over processes, which agree on a threshold from such counts: adds the magnitudes from
// `low` on to counts (threads, bins), bins 2^shift of their bits wide. False if a weight is NaN.
bool count_magnitudes(const MaskedTable& table, uint32_t low, int shift, int bins, int64_t* counts,
                      int threads);

// Keeps what is larger than `threshold`, and of what is equal to it the first ties[thread] in the share of
// every thread: the shares that `count_magnitudes` has counted.
void threshold_mask(const MaskedTable& table, uint32_t threshold, const int64_t* ties, int threads);

// `topk_mask` on GPU `device`, in order with the other work of `stream` (a cudaStream_t); returns before it
// is done and waits for nothing. The first number of `scratch` (topk_mask_scratch() of them, of any
// content) and `nan` (0 before) become nonzero if a weight is NaN. Throws if a launch fails.
int64_t topk_mask_scratch(int64_t tables);
void topk_mask_cuda(const std::vector<MaskedTable>& tables, int64_t keep, int64_t* scratch, int device,
                    void* stream);
void topk_mask_rows_cuda(const MaskedTable& table, int64_t keep, int64_t* nan, int device, void* stream);

}  // namespace metasd
