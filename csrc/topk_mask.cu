// Exact magnitude masks on a GPU: radix select on the 31 magnitude bits of a float, which order like the
// magnitudes themselves. Nothing is sorted or copied, the host waits for nothing, and all that is added
// atomically is whole numbers, so the same weights always give the same mask.
//
// Over all tables together, with n weights of 4 bytes (in order; those marked * for each table):
//
//   memset            state and histograms                                      writes 2 MiB
// * histogram_high    upper 13 bits, in shared memory; is there a NaN?          reads 4 n
//   select_high       the bin of the keep-th largest                            reads 64 KiB
// * histogram_low     lower 18 bits of what is in it (normal: 1 in 150)         reads 4 n
//   select_low        the threshold; how many equal to it are kept              reads 10 KiB
// * write_above       words of what is larger; every block counts its equals    reads 4 n, writes n / 8
// * write_ties        adds the first equals, in blocks that hold some           little, at most 4 n
//
// So 4 t + 3 launches for t tables and 12 1/8 bytes a weight: with b bytes/s of memory bandwidth no run
// takes less than 12.1 n / b seconds (60 million at 3.35 TB/s: 0.22 ms). Where all weights are of one
// magnitude the fourth read is needed. Per row: one launch a table, four digits of 8 bits; a row comes
// from memory once and four more times from caches, so the floor is 4 1/8 bytes a weight.
//
// A thread takes 8 columns at a time, four of them a mask word. Rows start at whole words, so a word
// never straddles two; a block owns a contiguous range of words, so counts per block place the ties.

#include <cuda_runtime.h>

#include <algorithm>
#include <climits>
#include <stdexcept>
#include <string>

#include "topk_mask.h"

namespace metasd {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinity = 0x7f800000u;
constexpr int kLowBits = 18, kFineBits = 10;
constexpr int kHighBins = 1 << (31 - kLowBits), kLowBins = 1 << kLowBits;
constexpr int kCoarseBins = 1 << (kLowBits - kFineBits), kFineBins = 1 << kFineBits;
constexpr int kRowBits = 8, kRowBins = 1 << kRowBits;
constexpr int kThreads = 512, kSelectThreads = 1024, kMaxBlocks = 2048;
constexpr uint32_t kWarp = 0xffffffffu;

using Count = unsigned long long;

struct Scratch {  // followed by the equals of every block of write_above
  Count nan;        // nonzero if a weight is NaN; first, where the caller reads it
  int64_t ties;     // rank of the threshold in the bin selected: at the end, how many equals are kept
  Count threshold;  // the upper bits of the threshold that are known so far
  Count high[kHighBins], coarse[kCoarseBins], fine[kLowBins];
};

struct Octet {
  uint32_t bits[8];  // magnitudes; 0 from `count` on
  int count;
};

__device__ uint32_t words_of(const MaskedTable& table) {  // rows of 2^32 columns are refused
  return static_cast<uint32_t>((table.cols + 31) / 32);
}

__device__ Octet load(const MaskedTable& table, bool aligned, int64_t row, int64_t column) {
  const float* from = table.weights + row * table.stride + column;
  Octet octet;
  octet.count = static_cast<int>(max(int64_t{0}, min(int64_t{8}, table.cols - column)));
  if (aligned && octet.count == 8) {
    const uint4 a = __ldg(reinterpret_cast<const uint4*>(from));
    const uint4 b = __ldg(reinterpret_cast<const uint4*>(from) + 1);
    const uint32_t all[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int j = 0; j < 8; ++j) octet.bits[j] = all[j] & kMagnitude;
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j)
      octet.bits[j] = j < octet.count ? __float_as_uint(__ldg(from + j)) & kMagnitude : 0;
  }
  return octet;
}

// Calls body(octet, word) for the words begin .. end - 1, in order over rounds and threads. All threads
// of the block call it equally often, so that it may hold barriers; past the end with a count of 0.
template <class Body>
__device__ void for_octets(const MaskedTable& table, int64_t begin, int64_t end, Body body) {
  const bool aligned = (reinterpret_cast<uintptr_t>(table.weights) | table.stride * 4) % 16 == 0;
  const uint32_t words = words_of(table), step = blockDim.x / 4;
  const uint32_t step_rows = step / words, step_words = step % words;
  int64_t word = begin + threadIdx.x / 4, row = word / words;
  uint32_t word_in_row = static_cast<uint32_t>(word - row * words);
  for (; begin < end; begin += step, word += step) {
    Octet octet{};
    if (word < end) octet = load(table, aligned, row, word_in_row * int64_t{32} + threadIdx.x % 4 * 8);
    body(octet, word);
    row += step_rows;
    word_in_row += step_words;
    if (word_in_row >= words) word_in_row -= words, ++row;
  }
}

// The part of the table's words that this block owns.
template <class Body>
__device__ void for_own_octets(const MaskedTable& table, Body body) {
  const int64_t words = words_of(table) * table.rows;
  for_octets(table, words * blockIdx.x / gridDim.x, words * (blockIdx.x + 1) / gridDim.x, body);
}

// The sum over the threads before this one, and over all. Called by the whole block.
__device__ int64_t sum_before(int64_t value, int64_t& total) {
  __shared__ int64_t of_warp[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t upto = value;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int64_t other = __shfl_up_sync(kWarp, upto, distance);
    if (lane >= distance) upto += other;
  }
  if (lane == 31) of_warp[warp] = upto;
  __syncthreads();
  int64_t before = upto - value;
  total = 0;
  for (int i = 0; i < static_cast<int>(blockDim.x) / 32; ++i) {
    if (i < warp) before += of_warp[i];
    total += of_warp[i];
  }
  __syncthreads();  // the next call writes of_warp
  return before;
}

// The bin that holds the `wanted`-th largest value (1-based); `wanted` becomes its rank inside the bin.
// Called by the whole block; bins and threads are powers of two.
template <class T>
__device__ uint32_t select_bin(const T* histogram, int bins, int64_t& wanted) {
  __shared__ int64_t found_rank;
  __shared__ int found;
  const int part = max(bins / static_cast<int>(blockDim.x), 1);
  const int end = bins - static_cast<int>(threadIdx.x) * part;  // thread 0 has the largest values
  int64_t own = 0, total;
  for (int bin = end - part; bin < end && end > 0; ++bin) own += histogram[bin];
  const int64_t before = sum_before(own, total);
  if (before < wanted && wanted <= before + own) {
    int64_t rank = wanted - before;
    int bin = end - 1;
    while (static_cast<int64_t>(histogram[bin]) < rank) rank -= histogram[bin--];
    found = bin;
    found_rank = rank;
  }
  __syncthreads();  // a next call writes these after the barriers of its sum only
  wanted = found_rank;
  return static_cast<uint32_t>(found);
}

__device__ void compare(const Octet& octet, uint32_t threshold, uint32_t& above, uint32_t& equal) {
  above = equal = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    above |= static_cast<uint32_t>(octet.bits[j] > threshold) << j;
    equal |= static_cast<uint32_t>(octet.bits[j] == threshold) << j;
  }
  equal &= (1u << octet.count) - 1;
}

// The first `left` of the block's equals; lowers `left` by them. Called by the whole block.
__device__ uint32_t take_ties(uint32_t equal, int64_t& left) {
  int64_t total, room = left - sum_before(__popc(equal), total);
  uint32_t taken = 0;
  for (; equal && room > 0; equal &= equal - 1, --room) taken |= equal & (~equal + 1);
  left -= min(left, total);
  return taken;
}

// The mask word of which this thread has 8 bits. Called by the whole warp.
__device__ uint32_t whole_word(uint32_t bits) {
  bits <<= threadIdx.x % 4 * 8;
  bits |= __shfl_xor_sync(kWarp, bits, 1);
  return bits | __shfl_xor_sync(kWarp, bits, 2);
}

__global__ void __launch_bounds__(kThreads, 3) histogram_high(MaskedTable table, Scratch* scratch) {
  __shared__ uint32_t own[kHighBins];  // a block counts less than 2^32 weights
  for (int bin = threadIdx.x; bin < kHighBins; bin += blockDim.x) own[bin] = 0;
  __syncthreads();
  uint32_t largest = 0;
  for_own_octets(table, [&](const Octet& octet, int64_t) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (j < octet.count) atomicAdd(&own[octet.bits[j] >> kLowBits], 1u);
      largest = max(largest, octet.bits[j]);
    }
  });
  if (largest > kInfinity) atomicAdd(&scratch->nan, Count{1});
  __syncthreads();
  for (int bin = threadIdx.x; bin < kHighBins; bin += blockDim.x)
    if (own[bin]) atomicAdd(&scratch->high[bin], Count{own[bin]});
}

__global__ void __launch_bounds__(kSelectThreads) select_high(Scratch* scratch, int64_t keep) {
  const uint32_t bin = select_bin(scratch->high, kHighBins, keep);
  if (threadIdx.x == 0) {
    scratch->threshold = bin;
    scratch->ties = keep;
  }
}

// The fine histogram is too large for shared memory, but few weights reach it. Where many do they tend
// to be equal: a thread adds a run of them at once.
__global__ void __launch_bounds__(kThreads, 3) histogram_low(MaskedTable table, Scratch* scratch) {
  __shared__ uint32_t own[kCoarseBins];
  for (int bin = threadIdx.x; bin < kCoarseBins; bin += blockDim.x) own[bin] = 0;
  __syncthreads();
  const uint32_t high = static_cast<uint32_t>(scratch->threshold);
  uint32_t low = 0, run = 0;
  const auto add_run = [&] {
    if (run == 0) return;
    atomicAdd(&own[low >> kFineBits], run);
    atomicAdd(&scratch->fine[low], Count{run});
  };
  for_own_octets(table, [&](const Octet& octet, int64_t) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (j >= octet.count || octet.bits[j] >> kLowBits != high) continue;
      const uint32_t next = octet.bits[j] & (kLowBins - 1);
      if (next != low) {
        add_run();
        low = next;
        run = 0;
      }
      ++run;
    }
  });
  add_run();
  __syncthreads();
  for (int bin = threadIdx.x; bin < kCoarseBins; bin += blockDim.x)
    if (own[bin]) atomicAdd(&scratch->coarse[bin], Count{own[bin]});
}

__global__ void __launch_bounds__(kSelectThreads) select_low(Scratch* scratch) {
  int64_t wanted = scratch->ties;
  const uint32_t coarse = select_bin(scratch->coarse, kCoarseBins, wanted) << kFineBits;
  const uint32_t low = coarse | select_bin(scratch->fine + coarse, kFineBins, wanted);
  if (threadIdx.x == 0) {
    scratch->threshold = scratch->threshold << kLowBits | low;
    scratch->ties = wanted;
  }
}

__global__ void __launch_bounds__(kThreads, 3)
    write_above(MaskedTable table, const Scratch* scratch, int64_t* equals) {
  const uint32_t threshold = static_cast<uint32_t>(scratch->threshold);
  uint32_t own = 0;
  for_own_octets(table, [&](const Octet& octet, int64_t word) {
    uint32_t above, equal;
    compare(octet, threshold, above, equal);
    own += __popc(equal);
    above = whole_word(above);
    if (threadIdx.x % 4 == 0 && octet.count) table.mask[word] = above;
  });
  int64_t total;
  sum_before(own, total);
  if (threadIdx.x == 0) equals[blockIdx.x] = total;
}

// `equals` has those of all tables' blocks, this table's from `first` on.
__global__ void __launch_bounds__(kThreads)
    write_ties(MaskedTable table, const Scratch* scratch, const int64_t* equals, int64_t first) {
  const int64_t mine = first + blockIdx.x;
  if (equals[mine] == 0) return;
  int64_t earlier = 0, total;
  for (int64_t i = threadIdx.x; i < mine; i += blockDim.x) earlier += equals[i];
  sum_before(earlier, total);
  int64_t left = min(scratch->ties - total, equals[mine]);
  if (left <= 0) return;
  const uint32_t threshold = static_cast<uint32_t>(scratch->threshold);
  for_own_octets(table, [&](const Octet& octet, int64_t word) {
    if (left == 0) return;  // the same in every thread
    uint32_t above, equal;
    compare(octet, threshold, above, equal);
    const uint32_t taken = whole_word(take_ties(equal, left));
    if (threadIdx.x % 4 == 0 && taken) table.mask[word] |= taken;
  });
}

__global__ void __launch_bounds__(kRowBins) mask_rows(MaskedTable table, int64_t keep, Count* nan) {
  __shared__ uint32_t histogram[kRowBins];
  const uint32_t words = words_of(table);
  uint32_t largest = 0;
  for (int64_t row = blockIdx.x; row < table.rows; row += gridDim.x) {
    uint32_t threshold = keep > 0 ? 0 : UINT32_MAX;
    int64_t ties = keep;
    for (int upper = 31, lower; keep > 0 && upper > 0; upper = lower) {
      lower = max(upper - kRowBits, 0);
      const uint32_t bins = 1u << (upper - lower);
      for (uint32_t bin = threadIdx.x; bin < bins; bin += blockDim.x) histogram[bin] = 0;
      __syncthreads();
      for_octets(table, row * words, (row + 1) * words, [&](const Octet& octet, int64_t) {
#pragma unroll
        for (int j = 0; j < 8; ++j)
          if (j < octet.count && octet.bits[j] >> upper == threshold)
            atomicAdd(&histogram[octet.bits[j] >> lower & (bins - 1)], 1u);
      });
      __syncthreads();
      threshold = threshold << (upper - lower) | select_bin(histogram, bins, ties);
    }
    for_octets(table, row * words, (row + 1) * words, [&](const Octet& octet, int64_t word) {
      uint32_t above, equal;
      compare(octet, threshold, above, equal);
#pragma unroll
      for (int j = 0; j < 8; ++j) largest = max(largest, octet.bits[j]);
      if (ties > 0) above |= take_ties(equal, ties);  // the same branch in every thread
      above = whole_word(above);
      if (threadIdx.x % 4 == 0 && octet.count) table.mask[word] = above;
    });
  }
  if (largest > kInfinity) atomicAdd(nan, Count{1});
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call would report it again
  std::string message = std::string(what) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion)
    message += " (built for METASD_CUDA_ARCHS=\"" METASD_CUDA_ARCHS "\")";
  throw std::runtime_error(message);
}

class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~OnDevice() { cudaSetDevice(before_); }

 private:
  int before_;
};

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads,
            cudaStream_t stream, Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

void check_table(const MaskedTable& table) {
  if (reinterpret_cast<uintptr_t>(table.weights) % 4 || reinterpret_cast<uintptr_t>(table.mask) % 4)
    throw std::invalid_argument("weights and masks must start at a multiple of 4 bytes");
  if (table.cols > UINT32_MAX)
    throw std::invalid_argument("a row must have less than 2^32 columns");
}

}  // namespace

int64_t topk_mask_scratch(int64_t tables) {
  return static_cast<int64_t>(sizeof(Scratch) / sizeof(int64_t)) + tables * kMaxBlocks;
}

void topk_mask_cuda(const std::vector<MaskedTable>& tables, int64_t keep, int64_t* scratch, int device,
                    void* queue) {
  for (const MaskedTable& table : tables) check_table(table);
  const OnDevice here(device);
  const auto stream = static_cast<cudaStream_t>(queue);
  Scratch* state = reinterpret_cast<Scratch*>(scratch);
  int64_t* equals = reinterpret_cast<int64_t*>(state + 1);
  int processors, resident;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "attributes");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, histogram_high, kThreads, 0),
        "occupancy of histogram_high");
  // One wave of blocks; small tables get fewer, at least four rounds of work each.
  const int64_t most = std::min(processors * resident, kMaxBlocks);
  const auto blocks = [&](const MaskedTable& table) {
    const int64_t rounds = ((table.cols + 31) / 32 * table.rows + kThreads / 4 - 1) / (kThreads / 4);
    return std::min(most, (rounds + 3) / 4);
  };
  const auto each = [&](auto body) {
    int64_t first = 0;  // blocks of the tables before
    for (const MaskedTable& table : tables) {
      if (table.rows == 0) continue;
      body(table, blocks(table), first);
      first += blocks(table);
    }
  };

  check(cudaMemsetAsync(state, 0, sizeof(Scratch), stream), "cudaMemsetAsync");
  each([&](const MaskedTable& table, int64_t count, int64_t) {
    launch("histogram_high", histogram_high, count, kThreads, stream, table, state);
    if (keep == 0)
      check(cudaMemsetAsync(table.mask, 0, (table.cols + 31) / 32 * table.rows * 4, stream),
            "cudaMemsetAsync");
  });
  if (keep == 0) return;
  launch("select_high", select_high, 1, kSelectThreads, stream, state, keep);
  each([&](const MaskedTable& table, int64_t count, int64_t) {
    launch("histogram_low", histogram_low, count, kThreads, stream, table, state);
  });
  launch("select_low", select_low, 1, kSelectThreads, stream, state);
  each([&](const MaskedTable& table, int64_t count, int64_t first) {
    launch("write_above", write_above, count, kThreads, stream, table, state, equals + first);
  });
  each([&](const MaskedTable& table, int64_t count, int64_t first) {
    launch("write_ties", write_ties, count, kThreads, stream, table, state, equals, first);
  });
}

void topk_mask_rows_cuda(const MaskedTable& table, int64_t keep, int64_t* nan, int device, void* queue) {
  check_table(table);
  if (table.rows == 0) return;
  const OnDevice here(device);
  int threads = 32;  // 8 columns each, as far as that goes
  while (threads < kRowBins && threads * 8 < table.cols) threads *= 2;
  launch("mask_rows", mask_rows, std::min<int64_t>(table.rows, INT_MAX), threads,
         static_cast<cudaStream_t>(queue), table, keep, reinterpret_cast<Count*>(nan));
}

}  // namespace metasd
