// Stands in for CUDA's header so that kernels compile as C++ and run on the processor. The threads of
// a block are fibers: warps run one after another in random order, each as far as a barrier lets it, so
// that a missing one shows. Shared memory holds rubbish before every block; a barrier that part of the
// block misses ends the program; with -fsanitize=address, so does a wrong address.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ __attribute__((section("cuda_shared"))) static

extern char __start_cuda_shared[], __stop_cuda_shared[];

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace on_host {

inline int processors = 3;

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state;
  int64_t values[2];  // what a shuffle passes on; the next one uses the other
  int next;
};

inline std::vector<Fiber> fibers(1024);
inline ucontext_t scheduler;
inline unsigned current;
inline std::function<void()> kernel;
inline std::mt19937 random(1);

inline void wait(State state) {
  fibers[current].state = state;
  swapcontext(&fibers[current].context, &scheduler);
}

inline void enter() {
  kernel();
  wait(State::kDone);
}

// Lets fibers first .. last - 1 go on if all of them wait for each other.
inline bool release(unsigned first, unsigned last, State state) {
  for (unsigned i = first; i < last; ++i)
    if (fibers[i].state != state) return false;
  for (unsigned i = first; i < last; ++i) fibers[i].state = State::kReady;
  return true;
}

inline void run_block() {
  const unsigned threads = blockDim.x;
  std::memset(__start_cuda_shared, 0xA5, __stop_cuda_shared - __start_cuda_shared);
  for (unsigned i = 0; i < threads; ++i) {
    constexpr size_t kStack = 1 << 16;
    Fiber& fiber = fibers[i];
    if (!fiber.stack) fiber.stack = std::make_unique<char[]>(kStack);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, enter, 0);
    fiber.state = State::kReady;
    fiber.next = 0;
  }
  std::vector<unsigned> warps(threads / 32), lanes(32);
  std::iota(warps.begin(), warps.end(), 0);
  std::iota(lanes.begin(), lanes.end(), 0);
  do {
    std::shuffle(warps.begin(), warps.end(), random);
    for (unsigned warp : warps) do {
        std::shuffle(lanes.begin(), lanes.end(), random);
        for (unsigned lane : lanes) {
          current = threadIdx.x = warp * 32 + lane;
          if (fibers[current].state != State::kReady) continue;
          swapcontext(&scheduler, &fibers[current].context);
        }
      } while (release(warp * 32, warp * 32 + 32, State::kAtWarp));
  } while (release(0, threads, State::kAtBlock));
  for (unsigned i = 0; i < threads; ++i)
    if (fibers[i].state != State::kDone) {
      std::fprintf(stderr, "thread %u waits where others do not\n", i);
      std::abort();
    }
}

template <class T>
T shuffle(unsigned mask, T value, int lane) {
  if (mask != 0xffffffffu) std::abort();
  const int at = fibers[current].next ^= 1;
  fibers[current].values[at] = static_cast<int64_t>(value);
  wait(State::kAtWarp);
  return static_cast<T>(fibers[current / 32 * 32 + lane].values[at]);
}

}  // namespace on_host

inline void __syncthreads() { on_host::wait(on_host::State::kAtBlock); }

template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
  const int lane = on_host::current % 32;
  return on_host::shuffle(mask, value, lane < distance ? lane : lane - distance);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with) {
  return on_host::shuffle(mask, value, static_cast<int>(on_host::current % 32) ^ with);
}

template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}

template <class T>
T __ldg(const T* from) {
  if (reinterpret_cast<uintptr_t>(from) % alignof(T)) std::abort();
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }

using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice, cudaErrorUnsupportedPtxVersion };
enum { cudaDevAttrMultiProcessorCount };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  return *value = on_host::processors, cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  return *blocks = 2, cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return std::memset(to, value, bytes), cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (blockDim.x == 0 || blockDim.x % 32 || gridDim.x == 0) std::abort();
  on_host::kernel = [=] { kernel(arguments...); };
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) on_host::run_block();
  return cudaSuccess;
}
