// Row passes over blocks of 1-N scores: softmax statistics, then the gradient written over the
// scores. Included once per instruction set. Statistics may be gathered over several column blocks
// (`kStatistics` on each) before the gradient is written (`kGradient` on each); where a block holds
// whole rows both happen while the row is in cache (`kBoth`).

constexpr int64_t kChunk = 4096;  // columns whose scores stay in the first-level cache between reads

METASD_INLINE float exp_scalar(float x) { return exp_nonpositive<float>(splat(x))[0]; }

// An exponential, or what follows from it, as often as the entity of its column counts.
template <class Lanes>
METASD_INLINE f32 counted(f32 e, const float* multiplicity, int64_t j, Lanes lanes) {
  return multiplicity ? e * load(multiplicity + j, lanes) : e;
}

// Four running maxima, since each has to wait for its own last comparison.
template <class T>
METASD_INLINE float chunk_max(const T* z, int64_t begin, int64_t end) {
  f32 best[4] = {splat(-INFINITY), splat(-INFINITY), splat(-INFINITY), splat(-INFINITY)};
  int64_t j = begin;
  for (; j + 4 * kLanes <= end; j += 4 * kLanes)
    for (int i = 0; i < 4; ++i) best[i] = larger(load(z + j + i * kLanes, All{}), best[i]);
  vectors(j, end, [&](int64_t at, auto lanes) METASD_LAMBDA {
    best[0] = larger(keep(load(z + at, lanes), -INFINITY, lanes), best[0]);
  });
  return horizontal_max(larger(larger(best[0], best[1]), larger(best[2], best[3])));
}

// ---- cross entropy: statistics are max, sum of exp(z - max), target score --------------------------

template <class T>
void cross_entropy_row(T* z, const CrossEntropyArgs& a, int64_t row) {
  float* stat = a.stats + row * kCrossEntropyStats;
  const int64_t target = a.targets[row] - a.offset;
  const bool has_target = 0 <= target && target < a.cols;
  if (a.phase & kStatistics) {
    float max = stat[0], sum = stat[1];
    for (int64_t begin = 0; begin < a.cols; begin += kChunk) {
      const int64_t end = begin + kChunk < a.cols ? begin + kChunk : a.cols;
      const float best = chunk_max(z, begin, end);
      if (best > max) {
        sum *= exp_scalar(max - best);
        max = best;
      }
      f32 partial{};
      vectors(begin, end, [&](int64_t j, auto lanes) METASD_LAMBDA {
        const f32 e = exp_nonpositive<T>(load(z + j, lanes) - max);
        partial += keep(counted(e, a.multiplicity, j, lanes), 0.0f, lanes);
      });
      sum += horizontal_sum(partial);
    }
    stat[0] = max, stat[1] = sum;
    if (has_target) stat[2] = load(z + target, First{1})[0];
  }
  if (a.phase & kGradient) {
    const float weight = a.scale * (a.weight ? a.weight[row] : 1.0f);
    const float max = stat[0], factor = weight / stat[1];
    vectors(0, a.cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
      const f32 p = exp_nonpositive<T>(load(z + j, lanes) - max) * factor;
      store(z + j, counted(p, a.multiplicity, j, lanes), lanes);
    });
    if (has_target) {
      const f32 p = counted(splat(exp_scalar(stat[2] - max) * factor), a.multiplicity, target, First{1});
      store(z + target, p - weight, First{1});
    }
  }
}

// ---- distillation: two softmaxes per model, at temperature 1 and at tau ------------------------------
// Statistics: max_s, max_p, sum_s, sum_p (temperature 1), sum_s, sum_p (tau), sum of e_s (a - b),
// sum of e_p (b - a) with a = z_s / tau and b = z_p / tau, target scores of s and p.

// exp(z - max) from e = exp((z - max) / tau): a product of e's where tau is a small whole number
// (the published one is 3), which spares half of the exponentials.
template <class T, bool kWholeTau>
METASD_INLINE f32 at_temperature_one(f32 z_minus_max, f32 e, int tau) {
  if constexpr (!kWholeTau) return exp_nonpositive<T>(z_minus_max);
  f32 power = e;
  for (int i = 1; i < tau; ++i) power *= e;
  return power;
}

template <class T, bool kSourceGradient, bool kWholeTau>
void distillation_row(T* zs, T* zp, const DistillationArgs& a, int64_t row) {
  float* stat = a.stats + row * kDistillationStats;
  const int64_t target = a.targets[row] - a.offset;
  const bool has_target = 0 <= target && target < a.cols;
  const float inverse_tau = 1.0f / a.temperature;
  const int tau = kWholeTau ? static_cast<int>(a.temperature) : 0;
  if (a.phase & kStatistics) {
    float max_s = stat[0], max_p = stat[1];
    for (int64_t begin = 0; begin < a.cols; begin += kChunk) {
      const int64_t end = begin + kChunk < a.cols ? begin + kChunk : a.cols;
      const float best_s = chunk_max(zs, begin, end), best_p = chunk_max(zp, begin, end);
      if (best_s > max_s) {
        stat[2] *= exp_scalar(max_s - best_s);
        const float shrink = exp_scalar((max_s - best_s) * inverse_tau);
        stat[4] *= shrink, stat[6] *= shrink;
        max_s = best_s;
      }
      if (best_p > max_p) {
        stat[3] *= exp_scalar(max_p - best_p);
        const float shrink = exp_scalar((max_p - best_p) * inverse_tau);
        stat[5] *= shrink, stat[7] *= shrink;
        max_p = best_p;
      }
      f32 sum_s{}, sum_p{}, sum_st{}, sum_pt{}, moment_s{}, moment_p{};
      vectors(begin, end, [&](int64_t j, auto lanes) METASD_LAMBDA {
        const f32 s = load(zs + j, lanes), p = load(zp + j, lanes);
        const f32 one_s = keep(exp_nonpositive<T>((s - max_s) * inverse_tau), 0.0f, lanes);
        const f32 one_p = keep(exp_nonpositive<T>((p - max_p) * inverse_tau), 0.0f, lanes);
        const f32 es = counted(one_s, a.multiplicity, j, lanes);
        const f32 ep = counted(one_p, a.multiplicity, j, lanes);
        const f32 difference = (s - p) * inverse_tau;
        sum_st += es, sum_pt += ep;
        moment_s += es * difference, moment_p -= ep * difference;
        const f32 sharp_p = at_temperature_one<T, kWholeTau>(p - max_p, one_p, tau);
        sum_p += keep(counted(sharp_p, a.multiplicity, j, lanes), 0.0f, lanes);
        if constexpr (kSourceGradient) {
          const f32 sharp_s = at_temperature_one<T, kWholeTau>(s - max_s, one_s, tau);
          sum_s += keep(counted(sharp_s, a.multiplicity, j, lanes), 0.0f, lanes);
        }
      });
      stat[2] += horizontal_sum(sum_s), stat[3] += horizontal_sum(sum_p);
      stat[4] += horizontal_sum(sum_st), stat[5] += horizontal_sum(sum_pt);
      stat[6] += horizontal_sum(moment_s), stat[7] += horizontal_sum(moment_p);
    }
    stat[0] = max_s, stat[1] = max_p;
    if (has_target) {
      stat[8] = load(zs + target, First{1})[0];
      stat[9] = load(zp + target, First{1})[0];
    }
  }
  if (a.phase & kGradient) {
    const float weight = a.scale * (a.weight ? a.weight[row] : 1.0f);
    const float max_s = stat[0], max_p = stat[1];
    const float factor_s = weight / stat[2], factor_p = weight / stat[3];
    const float inverse_st = 1.0f / stat[4], inverse_pt = 1.0f / stat[5];
    // log(p_p / p_s) = b - a + shift, and the two divergences from the moments.
    const float shift = (max_s - max_p) * inverse_tau + logf(stat[4]) - logf(stat[5]);
    const float kl_sp = stat[6] * inverse_st - shift, kl_ps = stat[7] * inverse_pt + shift;
    const float scale = a.scale * (a.count ? a.count[row] : 1.0f);
    const float by_difference = scale * inverse_tau * a.difference_weight;
    const float by_logarithm = scale * inverse_tau * a.logarithm_weight;
    vectors(0, a.cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
      const f32 s = load(zs + j, lanes), p = load(zp + j, lanes);
      const f32 es = exp_nonpositive<T>((s - max_s) * inverse_tau), ps = es * inverse_st;
      const f32 ep = exp_nonpositive<T>((p - max_p) * inverse_tau), pp = ep * inverse_pt;
      const f32 ratio = (p - s) * inverse_tau + shift;
      const f32 difference = (pp - ps) * by_difference;
      const f32 grad_p = at_temperature_one<T, kWholeTau>(p - max_p, ep, tau) * factor_p + difference +
                         pp * (ratio - kl_ps) * by_logarithm;
      store(zp + j, counted(grad_p, a.multiplicity, j, lanes), lanes);
      if constexpr (kSourceGradient) {
        const f32 grad_s = at_temperature_one<T, kWholeTau>(s - max_s, es, tau) * factor_s - difference -
                           ps * (ratio + kl_sp) * by_logarithm;
        store(zs + j, counted(grad_s, a.multiplicity, j, lanes), lanes);
      }
    });
    if (has_target) {
      const float s = stat[8], p = stat[9];
      const float ps = exp_scalar((s - max_s) * inverse_tau) * inverse_st;
      const float pp = exp_scalar((p - max_p) * inverse_tau) * inverse_pt;
      const float ratio = (p - s) * inverse_tau + shift;
      const float difference = (pp - ps) * by_difference;
      const float count = a.multiplicity ? a.multiplicity[target] : 1.0f;
      store(zp + target,
            splat((exp_scalar(p - max_p) * factor_p + difference + pp * (ratio - kl_ps) * by_logarithm) *
                      count -
                  weight),
            First{1});
      if constexpr (kSourceGradient)
        store(zs + target,
              splat((exp_scalar(s - max_s) * factor_s - difference - ps * (ratio + kl_sp) * by_logarithm) *
                        count -
                    weight),
              First{1});
    }
  }
}

// ---- meta gradient: statistics max_s, max_p, sum_s, sum_p, sum of e_s zdot, sum of e_p zdot ------------

template <class T>
void meta_row(T* zs, const T* zp, const T* zdot, const MetaArgs& a, int64_t row) {
  float* stat = a.stats + row * kMetaStats;
  const float inverse_tau = 1.0f / a.temperature;
  if (a.phase & kStatistics) {
    float max_s = stat[0], max_p = stat[1];
    for (int64_t begin = 0; begin < a.cols; begin += kChunk) {
      const int64_t end = begin + kChunk < a.cols ? begin + kChunk : a.cols;
      const float best_s = chunk_max(zs, begin, end), best_p = chunk_max(zp, begin, end);
      if (best_s > max_s) {
        const float shrink = exp_scalar((max_s - best_s) * inverse_tau);
        stat[2] *= shrink, stat[4] *= shrink;
        max_s = best_s;
      }
      if (best_p > max_p) {
        const float shrink = exp_scalar((max_p - best_p) * inverse_tau);
        stat[3] *= shrink, stat[5] *= shrink;
        max_p = best_p;
      }
      f32 sum_s{}, sum_p{}, moment_s{}, moment_p{};
      vectors(begin, end, [&](int64_t j, auto lanes) METASD_LAMBDA {
        const f32 dot = load(zdot + j, lanes);
        const f32 one_s = exp_nonpositive<T>((load(zs + j, lanes) - max_s) * inverse_tau);
        const f32 one_p = exp_nonpositive<T>((load(zp + j, lanes) - max_p) * inverse_tau);
        const f32 es = keep(counted(one_s, a.multiplicity, j, lanes), 0.0f, lanes);
        const f32 ep = keep(counted(one_p, a.multiplicity, j, lanes), 0.0f, lanes);
        sum_s += es, sum_p += ep;
        moment_s += es * dot, moment_p += ep * dot;
      });
      stat[2] += horizontal_sum(sum_s), stat[3] += horizontal_sum(sum_p);
      stat[4] += horizontal_sum(moment_s), stat[5] += horizontal_sum(moment_p);
    }
    stat[0] = max_s, stat[1] = max_p;
  }
  if (a.phase & kGradient) {
    const float max_s = stat[0], max_p = stat[1];
    const float factor_s = a.scale * a.forward_weight / stat[2];
    const float factor_p = a.scale * a.backward_weight / stat[3];
    const float mean_s = stat[4] / stat[2], mean_p = stat[5] / stat[3];
    vectors(0, a.cols, [&](int64_t j, auto lanes) METASD_LAMBDA {
      const f32 dot = load(zdot + j, lanes);
      const f32 es = exp_nonpositive<T>((load(zs + j, lanes) - max_s) * inverse_tau);
      const f32 ep = exp_nonpositive<T>((load(zp + j, lanes) - max_p) * inverse_tau);
      const f32 grad = es * factor_s * (dot - mean_s) + ep * factor_p * (dot - mean_p);
      store(zs + j, counted(grad, a.multiplicity, j, lanes), lanes);
    });
  }
}

// ---- the passes over all rows of a block -----------------------------------------------------------------

template <class T>
void cross_entropy_block(const CrossEntropyArgs& a) {
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const FlushDenormals flush;
    cross_entropy_row(static_cast<T*>(a.z) + row * a.stride, a, row);
  });
}
template <class T, bool kSourceGradient>
void distillation_block(const DistillationArgs& a) {
  const bool whole_tau = a.temperature == std::floor(a.temperature) && a.temperature <= 4.0f;
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const FlushDenormals flush;
    T* zs = static_cast<T*>(a.zs) + row * a.stride;
    T* zp = static_cast<T*>(a.zp) + row * a.stride;
    if (whole_tau)
      distillation_row<T, kSourceGradient, true>(zs, zp, a, row);
    else
      distillation_row<T, kSourceGradient, false>(zs, zp, a, row);
  });
}
template <class T>
void meta_block(const MetaArgs& a) {
  parallel_rows(a.rows, a.threads, [&](int64_t row) {
    const FlushDenormals flush;
    meta_row(static_cast<T*>(a.zs) + row * a.stride, static_cast<const T*>(a.zp) + row * a.stride,
             static_cast<const T*>(a.zdot) + row * a.stride, a, row);
  });
}

void cross_entropy(const CrossEntropyArgs& a) {
  a.half ? cross_entropy_block<bf16>(a) : cross_entropy_block<float>(a);
}
void distillation(const DistillationArgs& a) {
  if (a.half)
    a.source_gradient ? distillation_block<bf16, true>(a) : distillation_block<bf16, false>(a);
  else
    a.source_gradient ? distillation_block<float, true>(a) : distillation_block<float, false>(a);
}
void meta(const MetaArgs& a) { a.half ? meta_block<bf16>(a) : meta_block<float>(a); }
