// Runs the kernels of csrc/topk_mask.cu on the processor and compares them with a stable sort.

#define METASD_CUDA_ARCHS ""
#include "../../../csrc/topk_mask.cu"

#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>

namespace {

std::mt19937 draws(7);

struct Shape {
  int64_t rows, cols, padding, offset;  // stride = cols + padding; the table starts `offset` floats in
};

struct Case {
  std::vector<Shape> shapes;
  std::vector<std::vector<float>> memory;
  std::vector<std::vector<uint32_t>> words;
  std::vector<metasd::MaskedTable> tables;

  Case(const std::vector<Shape>& list, float (*draw)()) : shapes(list) {
    for (const Shape& s : shapes) {
      const int64_t stride = s.cols + s.padding;
      // As much memory as the table needs, so that a sanitizer sees every read past its end.
      memory.emplace_back(s.rows ? s.offset + (s.rows - 1) * stride + s.cols : 0);
      for (float& weight : memory.back()) weight = draw();
      words.emplace_back((s.cols + 31) / 32 * s.rows, 0xdeadbeefu);
      tables.push_back({memory.back().data() + (s.rows ? s.offset : 0), words.back().data(), s.rows,
                        s.cols, stride});
    }
  }

  float& weight(size_t table, int64_t row, int64_t col) {
    return memory[table][shapes[table].offset + row * tables[table].stride + col];
  }

  // What is kept when the `keep` first by magnitude are, of the given places (table, row, column).
  using Place = std::tuple<size_t, int64_t, int64_t>;
  void mark(std::vector<Place> places, int64_t keep, std::vector<std::vector<uint32_t>>& wanted) {
    std::stable_sort(places.begin(), places.end(), [&](const Place& a, const Place& b) {
      return std::fabs(std::apply([&](auto... i) { return weight(i...); }, a)) >
             std::fabs(std::apply([&](auto... i) { return weight(i...); }, b));
    });
    for (int64_t i = 0; i < keep; ++i) {
      const auto [table, row, col] = places[i];
      wanted[table][row * ((tables[table].cols + 31) / 32) + col / 32] |= 1u << col % 32;
    }
  }

  std::vector<Place> places(size_t table, int64_t row) const {
    std::vector<Place> list;
    for (int64_t col = 0; col < tables[table].cols; ++col) list.emplace_back(table, row, col);
    return list;
  }

  std::vector<std::vector<uint32_t>> none() const {
    std::vector<std::vector<uint32_t>> wanted;
    for (const auto& w : words) wanted.emplace_back(w.size(), 0);
    return wanted;
  }
};

int checks = 0, failures = 0;

void expect(bool holds, const char* what, size_t shapes, size_t draw, int64_t keep) {
  ++checks;
  if (holds) return;
  ++failures;
  std::printf("%s: shapes %zu, draw %zu, keep %ld\n", what, shapes, draw, static_cast<long>(keep));
}

float normal() { return std::normal_distribution<float>()(draws); }
float constant() { return 1; }
float few() { return std::round(normal()); }
float neighbours() { return 1 + static_cast<float>(draws() % 20) * 1.1920929e-7f; }
float zeros() { return draws() % 4 ? (draws() % 2 ? 0.0f : -0.0f) : normal(); }
float any() {  // infinite and subnormal ones among them
  const uint32_t bits = draws();
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return std::isnan(value) ? std::numeric_limits<float>::infinity() : value;
}

}  // namespace

int main() {
  const std::vector<std::vector<Shape>> all = {
      {{1, 1, 0, 0}},
      {{1, 77, 0, 1}},
      {{77, 1, 0, 0}},
      {{5, 32, 0, 0}, {3, 33, 0, 0}},
      {{0, 8, 0, 0}, {4, 31, 0, 3}, {0, 70, 0, 0}, {2, 64, 0, 0}, {1, 1, 0, 0}},
      {{60, 100, 0, 0}, {7, 129, 3, 2}},
      {{3, 9000, 0, 0}, {30, 8, 4, 0}},
      {{150, 40, 0, 0}, {11, 1024, 0, 0}},
  };
  float (*const fills[])() = {normal, constant, few, neighbours, zeros, any};
  for (size_t s = 0; s < all.size(); ++s)
    for (size_t f = s % 2; f < std::size(fills); f += 2) {  // half the pairs: a minute is too long
      Case c(all[s], fills[f]);
      std::vector<int64_t> scratch(metasd::topk_mask_scratch(c.tables.size()), -1);
      std::vector<Case::Place> everything;
      for (size_t t = 0; t < c.tables.size(); ++t)
        for (int64_t row = 0; row < c.tables[t].rows; ++row)
          for (const auto& place : c.places(t, row)) everything.push_back(place);
      const int64_t total = static_cast<int64_t>(everything.size());
      for (const int64_t keep : {int64_t{0}, std::min<int64_t>(total, 1), total / 10, total}) {
        auto wanted = c.none();
        c.mark(everything, keep, wanted);
        metasd::topk_mask_cuda(c.tables, keep, scratch.data(), 0, nullptr);
        expect(c.words == wanted && scratch[0] == 0, "mask", s, f, keep);
      }
      for (const double share : {0.0, 0.3, 1.0}) {
        auto wanted = c.none();
        int64_t nan = 0;
        for (size_t t = 0; t < c.tables.size(); ++t) {
          const auto keep = static_cast<int64_t>(share * static_cast<double>(c.tables[t].cols));
          for (int64_t row = 0; row < c.tables[t].rows; ++row) c.mark(c.places(t, row), keep, wanted);
          metasd::topk_mask_rows_cuda(c.tables[t], keep, &nan, 0, nullptr);
        }
        expect(c.words == wanted && nan == 0, "rows", s, f, static_cast<int64_t>(100 * share));
      }
      if (total == 0) continue;
      const auto [table, row, col] = everything[draws() % everything.size()];
      c.weight(table, row, col) = std::numeric_limits<float>::quiet_NaN();
      for (const int64_t keep : {int64_t{0}, total}) {
        metasd::topk_mask_cuda(c.tables, keep, scratch.data(), 0, nullptr);
        expect(scratch[0] != 0, "NaN", s, f, keep);
        int64_t nan = 0;
        metasd::topk_mask_rows_cuda(c.tables[table], keep ? c.tables[table].cols : 0, &nan, 0, nullptr);
        expect(nan != 0, "NaN in a row", s, f, keep);
      }
    }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures != 0;
}
