// The losses of csrc/strips.inl against sums in double precision, for processors that are not at hand:
// test_arm.py builds this for them and runs it in an emulator.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "losses.h"
#include "passes.h"

using namespace metasd;

namespace {

std::vector<float> normal(int64_t count, float scale, std::mt19937& random) {
  std::normal_distribution<float> distribution(0.0f, scale);
  std::vector<float> numbers(count);
  for (float& x : numbers) x = distribution(random);
  return numbers;
}

// The largest difference between two arrays, relative to the largest number of the second.
double error(const std::vector<float>& found, const std::vector<double>& wanted) {
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < wanted.size(); ++i) {
    worst = std::max(worst, std::fabs(found[i] - wanted[i]));
    largest = std::max(largest, std::fabs(wanted[i]));
  }
  return worst / largest;
}

double cross_entropy(int64_t queries, int64_t entities, int64_t width, bool masked, int threads) {
  std::mt19937 random(1);
  const auto q = normal(queries * width, 0.5f, random), table = normal(entities * width, 0.5f, random);
  const int64_t words = (width + 31) / 32;
  std::vector<uint32_t> mask(entities * words);
  for (int64_t n = 0; n < entities; ++n)
    for (int64_t j = 0; j < width; ++j)
      mask[n * words + j / 32] |= static_cast<uint32_t>(random() % 4 == 0) << (j % 32);
  std::vector<int64_t> targets(queries);
  for (int64_t& target : targets) target = random() % entities;
  const auto weight = [&](int64_t n, int64_t j) {
    const bool kept = !masked || mask[n * words + j / 32] >> (j % 32) & 1;
    return kept ? static_cast<double>(table[n * width + j]) : 0.0;
  };

  std::vector<float> grad_q(queries * width), grad_table(entities * width), stats(queries * 3);
  LossArgs args{};
  args.lefts[0] = {q.data(), grad_q.data()};
  const uint32_t* bits = masked ? mask.data() : nullptr;
  args.rights[0] = {table.data(), bits, grad_table.data(), bits, false};
  args.queries = queries, args.entities = entities, args.width = width;
  args.targets = targets.data(), args.scale = 1.0f / queries, args.stats = stats.data();
  args.phase = kBoth, args.threads = threads, args.memory = 1 << 20;
  args.sampling.threshold = 1e-9f;  // every entry that counts
  passes().strip_cross_entropy(args);

  std::vector<double> wanted_q(queries * width), wanted_table(entities * width);
  for (int64_t i = 0; i < queries; ++i) {
    std::vector<double> z(entities);
    double sum = 0;
    for (int64_t n = 0; n < entities; ++n) {
      for (int64_t j = 0; j < width; ++j) z[n] += q[i * width + j] * weight(n, j);
      sum += std::exp(z[n]);
    }
    for (int64_t n = 0; n < entities; ++n) {
      const double g = (std::exp(z[n]) / sum - (n == targets[i])) / queries;
      for (int64_t j = 0; j < width; ++j) {
        wanted_q[i * width + j] += g * weight(n, j);
        if (!masked || weight(n, j) != 0) wanted_table[n * width + j] += g * q[i * width + j];
      }
    }
  }
  return std::max(error(grad_q, wanted_q), error(grad_table, wanted_table));
}

}  // namespace

int main() {
  double worst = 0;
  for (bool masked : {false, true})
    for (int threads : {1, 2}) {
      worst = std::max(worst, cross_entropy(1, 37, 5, masked, threads));
      worst = std::max(worst, cross_entropy(70, 523, 33, masked, threads));
    }
  std::printf("%s %.3g\n", passes().isa, worst);
  return worst < 1e-5 ? 0 : 1;
}
