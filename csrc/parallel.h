// Static partition of work over the threads of the OpenMP runtime (the one torch has loaded).
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace metasd {

// While it lives, numbers below 1e-38 count as zero on this thread. A softmax tail is full of them,
// and each would cost the processor a hundred cycles. Not for rankings: there they are no ties.
struct FlushDenormals {
#ifdef __SSE__
  unsigned saved = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved); }
#endif
};

// Calls body(begin, end, thread) on `threads` contiguous ranges that cover 0 .. count.
template <class Body>
void parallel_ranges(int64_t count, int threads, Body body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int thread = 0; thread < threads; ++thread)
      body(count * thread / threads, count * (thread + 1) / threads, thread);
    return;
  }
#endif
  for (int thread = 0; thread < threads; ++thread)
    body(count * thread / threads, count * (thread + 1) / threads, thread);
}

// Calls body(task, thread) for every task, each on a thread that has nothing else to do.
template <class Body>
void parallel_tasks(int64_t count, int threads, Body body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < count; ++task) body(task, omp_get_thread_num());
    return;
  }
#endif
  for (int64_t task = 0; task < count; ++task) body(task, 0);
}

template <class Body>
void parallel_rows(int64_t rows, int threads, Body body) {
  parallel_ranges(rows, threads, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

}  // namespace metasd
