// Rank counts and running top-k over blocks of 1-N scores. Included once per instruction set.

// Adds to greater[row] and equal[row] the columns that beat or tie the target, the target itself and
// the row's known answers left out. Returns how many scores of the row were NaN.
template <class T>
int64_t rank_row(const T* z, const RankArgs& a, int64_t row) {
  const float score = a.scores[row];
  i32 greater{}, equal{}, nan{};
  vectors(0, a.cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
    const f32 v = keep(load(z + j, lanes), -INFINITY, lanes);
    greater += v > score, equal += v == score, nan += v != v;
  });
  int64_t above = count_true(greater), ties = count_true(equal);
  if (score == -INFINITY) ties -= (kLanes - a.cols % kLanes) % kLanes;
  const auto leave_out = [&](int64_t column) {
    column -= a.offset;
    if (column < 0 || column >= a.cols) return;
    const float v = load(z + column, First{1})[0];
    above -= v > score, ties -= v == score;
  };
  leave_out(a.targets[row]);
  if (a.indptr)
    for (int64_t i = a.indptr[row]; i < a.indptr[row + 1]; ++i)
      if (a.indices[i] != a.targets[row]) leave_out(a.indices[i]);
  a.greater[row] += above, a.equal[row] += ties;
  return count_true(nan);
}

template <class T>
int64_t rank_block(const RankArgs& a) {
  int64_t nan = 0;
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const int64_t found = rank_row(static_cast<const T*>(a.z) + row * a.stride, a, row);
    if (found) __atomic_fetch_add(&nan, found, __ATOMIC_RELAXED);
  });
  return nan;
}
int64_t rank(const RankArgs& a) { return a.half ? rank_block<bf16>(a) : rank_block<float>(a); }

// One row's k best so far as a binary heap whose root is the worst of them: the lowest score, and of
// equal scores the highest index. Columns come in rising order, so an equal score never enters.
METASD_INLINE bool worse(float score, int64_t index, float other, int64_t other_index) {
  return score < other || (score == other && index > other_index);
}

METASD_INLINE void sink(float* scores, int64_t* indices, int64_t size, int64_t at, float score,
                        int64_t index) {
  for (int64_t child; (child = 2 * at + 1) < size; at = child) {
    if (child + 1 < size &&
        worse(scores[child + 1], indices[child + 1], scores[child], indices[child]))
      ++child;
    if (!worse(scores[child], indices[child], score, index)) break;
    scores[at] = scores[child], indices[at] = indices[child];
  }
  scores[at] = score, indices[at] = index;
}

template <class T>
int64_t topk_row(T* z, const TopkArgs& a, int64_t row) {
  float* scores = a.scores + row * a.k;
  int64_t* indices = a.indices + row * a.k;
  int64_t known_nan = 0;
  if (a.known_indptr)
    for (int64_t i = a.known_indptr[row]; i < a.known_indptr[row + 1]; ++i) {
      const int64_t column = a.known_indices[i] - a.offset;
      if (column < 0 || column >= a.cols) continue;
      const float v = load(z + column, First{1})[0];
      known_nan += v != v;
      store(z + column, splat(-INFINITY), First{1});
    }
  i32 nan{};
  vectors(0, a.cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
    const f32 v = keep(load(z + j, lanes), -INFINITY, lanes);
    nan += v != v;
    if (!any(v > scores[0])) return;
    for (int lane = 0; lane < kLanes; ++lane)
      if (v[lane] > scores[0]) sink(scores, indices, a.k, 0, v[lane], a.offset + j + lane);
  });
  if (a.last)  // heap sort: the worst goes to the end, so the best comes first
    for (int64_t size = a.k - 1; size > 0; --size) {
      const float score = scores[size];
      const int64_t index = indices[size];
      scores[size] = scores[0], indices[size] = indices[0];
      sink(scores, indices, size, 0, score, index);
    }
  return count_true(nan) + known_nan;
}

template <class T>
int64_t topk_block(const TopkArgs& a) {
  int64_t nan = 0;
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const int64_t found = topk_row(static_cast<T*>(a.z) + row * a.stride, a, row);
    if (found) __atomic_fetch_add(&nan, found, __ATOMIC_RELAXED);
  });
  return nan;
}
int64_t topk(const TopkArgs& a) { return a.half ? topk_block<bf16>(a) : topk_block<float>(a); }
