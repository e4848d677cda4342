// ---- the losses ------------------------------------------------------------------------------------
// Each says which products its score matrices are sums of, which of them have a gradient, and what a
// row pass does to 16 queries: `raise` the maxima to those of some entities, `add` the terms of one,
// `combine` two threads' statistics, `prepare` what the gradient needs from them, and the `gradient`
// of one entity. `span` is about the sum of a row's magnitudes: the unit of Sampling::threshold. The
// maximum of no entities is kNothing.

constexpr float kNothing = -3.0e38f;

struct Term {
  int left, right;
};

// How many entities each row of a table counts as in the sums of a softmax: one, or
// LossArgs::multiplicity. An exponential is multiplied by it once it is known.
struct One {};
METASD_INLINE f32 operator*(f32 e, One) { return e; }
struct Ones {
  METASD_INLINE_MEMBER One operator()(int64_t) const { return {}; }
};
struct Counts {
  const float* from;
  METASD_INLINE_MEMBER f32 operator()(int64_t row) const { return splat(from[row]); }
};
// Calls body with the counts of the rows from `first` on.
template <class Body>
METASD_INLINE void with_counts(const LossArgs& args, int64_t first, Body body) {
  if (args.multiplicity)
    body(Counts{args.multiplicity + first});
  else
    body(Ones{});
}

// The scales of the distillation of 16 queries: that of all, times their counts.
METASD_INLINE f32 scales(const LossArgs& args, int64_t first) {
  f32 scale = splat(args.scale);
  for (int64_t lane = 0, q = first; args.count && lane < kLanes && q < args.queries; ++lane, ++q)
    scale[lane] *= args.count[q];
  return scale;
}

// 2^x for x <= 0; 2^-126 is the least, and a NaN stays one. Adding 1.5 * 2^23 rounds to an integer n and
// leaves it in the low bits; 2^(x - n) is a polynomial, to whose exponent n is added. Its relative error
// is 3e-6 where scores are products of bf16 numbers, which carry 4e-3, and else 1e-7.
template <bool kHalf>
METASD_INLINE f32 exp2_of(f32 x) {
  x = larger(splat(-126.0f), x);
  const f32 shifted = x + 12582912.0f;
  const f32 r = x - (shifted - 12582912.0f);
  f32 p;
  if constexpr (kHalf) {
    p = splat(0x1.3a02cap-7f);
    p = p * r + 0x1.c9fc46p-5f;
    p = p * r + 0x1.ec0378p-3f;
    p = p * r + 0x1.62e12cp-1f;
  } else {
    p = splat(0x1.5bba14p-10f);
    p = p * r + 0x1.3cea88p-7f;
    p = p * r + 0x1.c6b752p-5f;
    p = p * r + 0x1.ebf9bcp-3f;
    p = p * r + 0x1.62e42ap-1f;
  }
  p = p * r + 1.0f;
  return (f32)((i32)p + ((i32)shifted << 23));
}
constexpr float kLog2E = 1.44269504088896341f;
template <bool kHalf>
METASD_INLINE f32 exp_of(f32 x) {
  return exp2_of<kHalf>(x * kLog2E);
}

METASD_INLINE f32 max_over(const float* z, int64_t count, f32 max) {
  f32 best[4] = {max, max, max, max};
  int64_t n = 0;
  for (; n + 4 <= count; n += 4)
    for (int i = 0; i < 4; ++i) best[i] = larger(load(z + (n + i) * kLanes, All{}), best[i]);
  for (; n < count; ++n) best[0] = larger(load(z + n * kLanes, All{}), best[0]);
  return larger(larger(best[0], best[1]), larger(best[2], best[3]));
}

template <bool kHalf>
struct CrossEntropy {
  static constexpr int kScores = 1, kOperands = 1, kStats = kCrossEntropyStats, kFirstTarget = 2;
  static constexpr int kFactors = 2, kTerms[] = {1};
  static constexpr Term kTermsOf[][2] = {{{0, 0}}};
  static constexpr bool kLearns[] = {true}, kHasTargets = true;

  METASD_INLINE void raise(const CrossEntropy&, const float* const* z, int64_t count, f32* stat) {
    const f32 max = max_over(z[0], count, stat[0]);
    if (!any(max > stat[0])) return;
    stat[1] *= exp_of<kHalf>(stat[0] - max);
    stat[0] = max;
  }
  template <class Count>
  METASD_INLINE void add(const CrossEntropy&, const f32* z, Count count, f32* stat) {
    stat[1] += exp_of<kHalf>(z[0] - stat[0]) * count;
  }
  METASD_INLINE void combine(const CrossEntropy&, f32* stat, const f32* other) {
    const f32 max = larger(stat[0], other[0]);
    stat[1] = stat[1] * exp_of<kHalf>(stat[0] - max) + other[1] * exp_of<kHalf>(other[0] - max);
    stat[0] = max;
  }
  METASD_INLINE void prepare(const CrossEntropy&, const f32* stat, f32 weight, f32, f32* factor) {
    factor[0] = stat[0], factor[1] = weight / stat[1];
  }
  METASD_INLINE f32 span(const CrossEntropy&, const f32*, float scale) { return splat(scale); }
  template <class Count>
  METASD_INLINE void gradient(const CrossEntropy&, const f32* z, Count count, const f32* factor, f32* g) {
    g[0] = exp_of<kHalf>(z[0] - factor[0]) * factor[1] * count;
  }
};

// The notation of loss_passes.inl: a = z_s / tau, b = z_p / tau.
template <bool kHalf, bool kMutual, bool kCubed>
struct Distillation {
  static constexpr int kScores = 2, kOperands = 2, kStats = kDistillationStats, kFirstTarget = 8;
  static constexpr int kFactors = 9, kTerms[] = {1, 1};
  static constexpr Term kTermsOf[][2] = {{{0, 0}}, {{1, 1}}};
  static constexpr bool kLearns[] = {kMutual, true}, kHasTargets = true;

  float inverse_tau, by_difference, by_logarithm;
  float soft = inverse_tau * kLog2E;  // exp(x / tau) = 2^(x soft)

  // exp(x) from e = exp(x / tau)
  METASD_INLINE f32 sharp(f32 x, f32 e) { return kCubed ? e * e * e : exp_of<kHalf>(x); }

  METASD_INLINE void raise(const Distillation& a, const float* const* z, int64_t count, f32* stat) {
    const f32 max_s = max_over(z[0], count, stat[0]), max_p = max_over(z[1], count, stat[1]);
    if (any((max_s > stat[0]) | (max_p > stat[1]))) rescale(a, stat, max_s, max_p);
  }
  template <class Count>
  METASD_INLINE void add(const Distillation& a, const f32* z, Count count, f32* stat) {
    const f32 from_s = z[0] - stat[0], from_p = z[1] - stat[1];
    const f32 one_s = exp2_of<kHalf>(from_s * a.soft), one_p = exp2_of<kHalf>(from_p * a.soft);
    const f32 es = one_s * count, ep = one_p * count;
    const f32 difference = (z[0] - z[1]) * a.inverse_tau;
    if constexpr (kMutual) stat[2] += sharp(from_s, one_s) * count;
    stat[3] += sharp(from_p, one_p) * count;
    stat[4] += es, stat[5] += ep;
    stat[6] += es * difference, stat[7] -= ep * difference;
  }
  METASD_INLINE void rescale(const Distillation& a, f32* stat, f32 max_s, f32 max_p) {
    const f32 soft_s = exp2_of<kHalf>((stat[0] - max_s) * a.soft);
    const f32 soft_p = exp2_of<kHalf>((stat[1] - max_p) * a.soft);
    stat[2] *= sharp(stat[0] - max_s, soft_s), stat[4] *= soft_s, stat[6] *= soft_s;
    stat[3] *= sharp(stat[1] - max_p, soft_p), stat[5] *= soft_p, stat[7] *= soft_p;
    stat[0] = max_s, stat[1] = max_p;
  }
  METASD_INLINE void combine(const Distillation& a, f32* stat, const f32* other) {
    f32 more[kStats];
    for (int i = 0; i < kStats; ++i) more[i] = other[i];
    const f32 max_s = larger(stat[0], other[0]), max_p = larger(stat[1], other[1]);
    rescale(a, stat, max_s, max_p);
    rescale(a, more, max_s, max_p);
    for (int i = 2; i < kFirstTarget; ++i) stat[i] += more[i];
  }
  METASD_INLINE void prepare(const Distillation& a, const f32* stat, f32 weight, f32 scale,
                             f32* factor) {
    const f32 shift = (stat[0] - stat[1]) * a.inverse_tau + logarithm(stat[4]) - logarithm(stat[5]);
    factor[0] = stat[0], factor[1] = stat[1];
    factor[2] = weight / stat[2], factor[3] = weight / stat[3];
    factor[4] = scale * a.inverse_tau / stat[4], factor[5] = scale * a.inverse_tau / stat[5];
    factor[6] = shift;
    factor[7] = stat[6] / stat[4] - shift, factor[8] = stat[7] / stat[5] + shift;  // KL(s||p), KL(p||s)
  }
  METASD_INLINE f32 span(const Distillation&, const f32*, float scale) { return splat(scale); }
  METASD_INLINE f32 logarithm(f32 x) {
    f32 y{};
    for (int i = 0; i < kLanes; ++i) y[i] = logf(x[i]);
    return y;
  }
  template <class Count>
  METASD_INLINE void gradient(const Distillation& a, const f32* z, Count count, const f32* factor, f32* g) {
    const f32 from_s = z[0] - factor[0], from_p = z[1] - factor[1];
    const f32 es = exp2_of<kHalf>(from_s * a.soft), ep = exp2_of<kHalf>(from_p * a.soft);
    const f32 ps = es * factor[4], pp = ep * factor[5];
    const f32 ratio = (z[1] - z[0]) * a.inverse_tau + factor[6];  // log(p_p / p_s)
    const f32 difference = (pp - ps) * a.by_difference;
    g[1] = (sharp(from_p, ep) * factor[3] + difference + pp * (ratio - factor[8]) * a.by_logarithm) * count;
    if constexpr (kMutual)
      g[0] =
          (sharp(from_s, es) * factor[2] - difference - ps * (ratio + factor[7]) * a.by_logarithm) * count;
  }
};

// The sums of squares are there for the spread of a sampled gradient.
template <bool kHalf, bool kSampled>
struct Meta {
  static constexpr int kScores = 3, kOperands = 3, kStats = kMetaStats, kFirstTarget = kMetaStats;
  static constexpr int kFactors = 6, kTerms[] = {1, 1, 2};
  static constexpr Term kTermsOf[][2] = {{{0, 0}}, {{1, 1}}, {{2, 1}, {1, 2}}};
  static constexpr bool kLearns[] = {true, false, false}, kHasTargets = false;

  float inverse_tau, forward_weight, backward_weight;
  float soft = inverse_tau * kLog2E;

  METASD_INLINE void raise(const Meta& a, const float* const* z, int64_t count, f32* stat) {
    const f32 max_s = max_over(z[0], count, stat[0]), max_p = max_over(z[1], count, stat[1]);
    if (any((max_s > stat[0]) | (max_p > stat[1]))) rescale(a, stat, max_s, max_p);
  }
  template <class Count>
  METASD_INLINE void add(const Meta& a, const f32* z, Count count, f32* stat) {
    const f32 es = exp2_of<kHalf>((z[0] - stat[0]) * a.soft) * count;
    const f32 ep = exp2_of<kHalf>((z[1] - stat[1]) * a.soft) * count;
    stat[2] += es, stat[3] += ep;
    stat[4] += es * z[2], stat[5] += ep * z[2];
    if constexpr (kSampled) stat[6] += es * z[2] * z[2], stat[7] += ep * z[2] * z[2];
  }
  METASD_INLINE void rescale(const Meta& a, f32* stat, f32 max_s, f32 max_p) {
    const f32 soft_s = exp2_of<kHalf>((stat[0] - max_s) * a.soft);
    const f32 soft_p = exp2_of<kHalf>((stat[1] - max_p) * a.soft);
    stat[2] *= soft_s, stat[4] *= soft_s, stat[6] *= soft_s;
    stat[3] *= soft_p, stat[5] *= soft_p, stat[7] *= soft_p;
    stat[0] = max_s, stat[1] = max_p;
  }
  METASD_INLINE void combine(const Meta& a, f32* stat, const f32* other) {
    f32 more[kStats];
    for (int i = 0; i < kStats; ++i) more[i] = other[i];
    const f32 max_s = larger(stat[0], other[0]), max_p = larger(stat[1], other[1]);
    rescale(a, stat, max_s, max_p);
    rescale(a, more, max_s, max_p);
    for (int i = 2; i < kStats; ++i) stat[i] += more[i];
  }
  METASD_INLINE void prepare(const Meta& a, const f32* stat, f32, f32 scale, f32* factor) {
    factor[0] = stat[0], factor[1] = stat[1];
    factor[2] = scale * a.forward_weight / stat[2], factor[3] = scale * a.backward_weight / stat[3];
    factor[4] = stat[4] / stat[2], factor[5] = stat[5] / stat[3];
  }
  METASD_INLINE f32 span(const Meta& a, const f32* stat, float scale) {
    return scale * (a.forward_weight * deviation(stat[2], stat[4], stat[6]) +
                    a.backward_weight * deviation(stat[3], stat[5], stat[7]));
  }
  METASD_INLINE f32 deviation(f32 sum, f32 moment, f32 square) {
    const f32 mean = moment / sum, variance = square / sum - mean * mean;
    f32 root{};
    for (int i = 0; i < kLanes; ++i) root[i] = variance[i] > 0.0f ? sqrtf(variance[i]) : 0.0f;
    return root;
  }
  template <class Count>
  METASD_INLINE void gradient(const Meta& a, const f32* z, Count count, const f32* factor, f32* g) {
    g[0] = (exp2_of<kHalf>((z[0] - factor[0]) * a.soft) * factor[2] * (z[2] - factor[4]) +
            exp2_of<kHalf>((z[1] - factor[1]) * a.soft) * factor[3] * (z[2] - factor[5])) *
           count;
  }
};

