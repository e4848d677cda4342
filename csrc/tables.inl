// Passes over embedding tables: cast and mask, gather, scatter-add. Included once per instruction set.

template <class Out, class In>
METASD_INLINE void copy_row(Out* to, const In* from, const uint32_t* words, int64_t cols) {
  vectors(0, cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
    f32 v = load(from + j, lanes);
    if (words) v = chosen(mask_at(words, j), v, splat(0.0f));
    store(to + j, v, lanes);
  });
}

void cast_rows(const CastArgs& a) {
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const int64_t source = a.index ? a.index[row] : row;
    const uint32_t* words = a.mask ? a.mask + source * a.words : nullptr;
    const float* from = a.from + source * a.from_stride;
    if (a.half)
      copy_row(static_cast<bf16*>(a.to) + row * a.to_stride, from, words, a.cols);
    else
      copy_row(static_cast<float*>(a.to) + row * a.to_stride, from, words, a.cols);
  });
}

// to = mask * from, or to += mask * from.
template <class In>
METASD_INLINE void accumulate_row(float* to, const In* from, const uint32_t* words, int64_t cols,
                                  bool add) {
  vectors(0, cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
    f32 v = load(from + j, lanes);
    if (words) v = chosen(mask_at(words, j), v, splat(0.0f));
    if (add) v += load(to + j, lanes);
    store(to + j, v, lanes);
  });
}

void accumulate(const AccumulateArgs& a) {
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const uint32_t* words = a.mask ? a.mask + row * a.words : nullptr;
    float* to = a.to + row * a.cols;
    if (a.half)
      accumulate_row(to, static_cast<const bf16*>(a.from) + row * a.cols, words, a.cols, a.add);
    else
      accumulate_row(to, static_cast<const float*>(a.from) + row * a.cols, words, a.cols, a.add);
  });
}

// The same from a transposed product, in tiles of sixteen by sixteen.
void accumulate_transposed(const TransposeArgs& a) {
  const int64_t strips = (a.rows + kLanes - 1) / kLanes;
  parallel_rows(strips, a.threads, [&](int64_t strip) {
    const int64_t first = strip * kLanes;
    const int height = static_cast<int>(a.rows - first < kLanes ? a.rows - first : kLanes);
    vectors(0, a.cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
      f32 tile[kLanes]{};
      const bf16* from = a.from + j * a.from_stride + first;
      for (int k = 0; k < lane_count(lanes); ++k, from += a.from_stride)
        tile[k] = height == kLanes ? load(from, All{}) : load(from, First{height});
      transpose(tile);
      for (int i = 0; i < height; ++i) {
        f32 v = tile[i];
        if (a.mask) v = chosen(mask_at(a.mask + (first + i) * a.words, j), v, splat(0.0f));
        float* to = a.to + (first + i) * a.cols + j;
        if (a.add) v += load(to, lanes);
        store(to, v, lanes);
      }
    });
  });
}

// to = x y, or conj(x) y, of rows of `rank` real parts and as many imaginary ones.
void complex_product(const ComplexArgs& a) {
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const int64_t start = 2 * row * a.rank;
    const float *x = a.x + start, *y = a.y + start;
    float* to = a.to + start;
    const float sign = a.conjugate ? -1.0f : 1.0f;
    vectors(0, a.rank, [&](int64_t j, auto lanes) METASD_LAMBDA {
      const f32 re = load(x + j, lanes), im = load(x + a.rank + j, lanes) * sign;
      const f32 other_re = load(y + j, lanes), other_im = load(y + a.rank + j, lanes);
      store(to + j, re * other_re - im * other_im, lanes);
      store(to + a.rank + j, re * other_im + im * other_re, lanes);
    });
  });
}

// sum over coordinates of 0.5 (|h|^2 + |t|^2) + 1.5 |r|^2 (|h|^2 + |t|^2), and its gradients.
void dura(const DuraArgs& a) {
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const int64_t width = a.parts * a.rank, start = row * width;
    f32 total{};
    vectors(0, a.rank, [&](int64_t j, auto lanes) METASD_LAMBDA {
      f32 ends{}, relation{};
      for (int64_t at = start + j; at < start + width; at += a.rank) {
        const f32 h = load(a.head + at, lanes), r = load(a.relation + at, lanes);
        const f32 t = load(a.tail + at, lanes);
        ends += h * h + t * t;
        relation += r * r;
      }
      const f32 factor = 0.5f + 1.5f * relation;
      total += ends * factor;
      for (int64_t at = start + j; at < start + width; at += a.rank) {
        store(a.grad_head + at, load(a.head + at, lanes) * factor * (2 * a.scale), lanes);
        store(a.grad_relation + at, load(a.relation + at, lanes) * ends * (3 * a.scale), lanes);
        store(a.grad_tail + at, load(a.tail + at, lanes) * factor * (2 * a.scale), lanes);
      }
    });
    a.penalty[row] = horizontal_sum(total) * a.scale;
  });
}

// A row of mask * from rounded to levels of its own (see kernels/quantize_rows.py); returns the step.
METASD_INLINE float quantize_row(const float* from, const uint32_t* words, float* to, int64_t cols,
                                 const WeightFormat& format) {
  constexpr float kTiny = std::numeric_limits<float>::min();
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to a whole number, halves to the even one
  const auto kept = [&](int64_t j, auto lanes) METASD_LAMBDA {
    const f32 v = load(from + j, lanes);
    return words ? chosen(mask_at(words, j), v, splat(0.0f)) : v;
  };
  const auto magnitude = [](f32 v) METASD_LAMBDA { return chosen(v < 0.0f, -v, v); };
  const float last = static_cast<float>(format.levels);
  const auto whole_steps = [&](f32 v, float step) METASD_LAMBDA {
    if (format.zero) {
      const f32 steps = (v / step + kRound) - kRound;
      return chosen(steps > last, splat(last), chosen(steps < -last, splat(-last), steps));
    }
    const f32 below = (magnitude(v) / (2.0f * step) - 0.5f + kRound) - kRound;
    const f32 odd = 2.0f * below + 1.0f, steps = chosen(odd > last, splat(last), odd);
    return chosen(v < 0.0f, -steps, chosen(v > 0.0f, steps, splat(0.0f)));
  };

  f32 largest{}, sum{}, count{};
  vectors(0, cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
    const f32 v = magnitude(kept(j, lanes));
    largest = larger(largest, v);
    sum += v;
    count += chosen(v > 0.0f, splat(1.0f), splat(0.0f));
  });
  const float mean = horizontal_sum(sum) / std::fmax(horizontal_sum(count), 1.0f);
  float rounding = 0, scale = 0;  // the step that weights are rounded with, and the one fitted to it
  float gain = -1.0f;
  for (int i = format.levels > 1 ? -1 : 0; i < format.count; ++i) {
    const float size = i < 0 ? horizontal_max(largest) / last : mean * format.steps[i];
    const float step = std::fmax(size, kTiny);
    f32 products{}, squares{};
    vectors(0, cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
      const f32 v = kept(j, lanes), steps = whole_steps(v, step);
      products += v * steps;
      squares += steps * steps;
    });
    const float product = horizontal_sum(products), square = std::fmax(horizontal_sum(squares), 1.0f);
    const float fit = product / std::sqrt(square);  // its square is what the step explains
    if (fit <= gain) continue;
    gain = fit, scale = product / square, rounding = step;
  }
  vectors(0, cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
    store(to + j, whole_steps(kept(j, lanes), rounding) * scale, lanes);
  });
  return scale;
}

void quantize_rows(const QuantizeArgs& a) {
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const uint32_t* words = a.mask ? a.mask + row * a.words : nullptr;
    const float scale = quantize_row(a.from + row * a.cols, words, a.to + row * a.cols, a.cols, *a.format);
    if (a.scale) a.scale[row] = scale;
  });
}

// Adagrad on rows: sums[n] += g^2 and rows -= lr g / (sqrt(sums[n]) + epsilon), which then is table[n].
void adagrad_rows(const AdagradArgs& a) {
  parallel_rows(a.count, a.threads, [&](int64_t i) {
    float *table = a.table + a.index[i] * a.cols, *sums = a.sums + a.index[i] * a.cols;
    float* row = a.rows + i * a.cols;
    const float* grad = a.grad + i * a.cols;
    vectors(0, a.cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
      const f32 g = load(grad + j, lanes), sum = load(sums + j, lanes) + g * g;
      const f32 v = load(row + j, lanes) - g * a.lr / (root(sum) + a.epsilon);
      store(sums + j, sum, lanes);
      store(row + j, v, lanes);
      store(table + j, v, lanes);
    });
  });
}

// to[index[i]] += from[i], rows in order. A thread owns a range of columns, so every sum has the same
// order, and the same bits, whatever the number of threads.
void scatter_add(const ScatterArgs& a) {
  const int64_t slices = (a.cols + kLanes - 1) / kLanes;
  parallel_ranges(slices, a.threads, [&](int64_t first, int64_t last, int) {
    const int64_t begin = first * kLanes, end = last * kLanes < a.cols ? last * kLanes : a.cols;
    for (int64_t i = 0; i < a.rows; ++i) {
      float* to = a.to + a.index[i] * a.cols;
      const float* from = a.from + i * a.cols;
      vectors(begin, end, [&](int64_t j, auto lanes) METASD_LAMBDA {
        store(to + j, load(to + j, lanes) + load(from + j, lanes), lanes);
      });
    }
  });
}
