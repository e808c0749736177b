// What both ways of drawing on the CPU stand on: a row's parameters, its noise, and dot products with rows of the head.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "philox.h"
#include "sampling.h"
#include "tiles.h"

namespace mmpt {

constexpr int64_t kChunk = 64;  // ids that are bounded together

struct Row {
  int64_t lo, hi, extra, top_k, seed, offset;
  double temperature, top_p;
  int side;  // where the extra id lies: -1 below the range, 1 above, 0 absent or inside
  int64_t count() const { return hi - lo + (side ? 1 : 0); }
  int64_t id(int64_t column) const {
    if (side < 0) return column == 0 ? extra : lo + column - 1;
    return column == hi - lo ? extra : lo + column;
  }
};

std::vector<Row> checked_rows(const Sampling& how, int64_t batch, int64_t vocabulary, int64_t max_range);

// Rows' ids as a tensor; ValueError where one is -1, which stands for a NaN logit.
at::Tensor checked_ids(const std::vector<int64_t>& ids);

inline double gumbel(uint32_t word) {
  const double u = (double(word) + 0.5) * 0x1p-32;
  return -std::log(-std::log1p(-u));
}

// Makes `order` the best `count` of its columns, by (scaled, lower column).
void best_first(std::vector<int64_t>& order, int64_t count, const std::vector<double>& scaled);

// Argmax of scaled + noise over the given columns; the first of equals.
int64_t draw_from(const std::vector<int64_t>& columns, const std::vector<double>& scaled, const uint32_t* word);

// Row `row` of the head's two matrices, and how many follow it in the same one.
struct HeadRows {
  const at::Tensor& base;
  const std::optional<at::Tensor>& fresh;
  int64_t size() const { return base.size(0) + (fresh ? fresh->size(0) : 0); }
  const at::Tensor& of(int64_t id, int64_t& row, int64_t& left) const {
    const bool in_base = id < base.size(0);
    const at::Tensor& matrix = in_base ? base : *fresh;
    row = in_base ? id : id - base.size(0);
    left = matrix.size(0) - row;
    return matrix;
  }
};

// Row `row` of `matrix` as numbers of type T, whatever its dtype and strides.
template <typename T>
void row_as(const at::Tensor& matrix, int64_t row, T* out) {
  const int64_t columns = matrix.size(1), row_step = matrix.stride(0), step = matrix.stride(1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, matrix.scalar_type(), "sample_range", [&] {
    const scalar_t* data = matrix.const_data_ptr<scalar_t>() + row * row_step;
    if (step == 1)  // said apart, it becomes vectors
      for (int64_t k = 0; k < columns; ++k) out[k] = static_cast<T>(data[k]);
    else
      for (int64_t k = 0; k < columns; ++k) out[k] = static_cast<T>(data[k * step]);
  });
}

template <typename T>
void plain_dots(const at::Tensor& matrix, int64_t row, int64_t n, const T* x, int64_t ldx, int64_t batch, T* out,
                int64_t ldo) {
  const int64_t columns = matrix.size(1);
  std::vector<T> weight(columns);
  for (int64_t i = 0; i < n; ++i) {
    row_as(matrix, row + i, weight.data());
    if constexpr (sizeof(T) == 4) {
      instruction_set().sampling->dots(weight.data(), columns, 1, x, ldx, batch, columns, out + i, ldo);
    } else {
      for (int64_t b = 0; b < batch; ++b) {
        T sum = 0;
        for (int64_t k = 0; k < columns; ++k) sum += weight[k] * x[b * ldx + k];
        out[b * ldo + i] = sum;
      }
    }
  }
}

// out[b*ldo + i] = logit of id first + i for x row b: the same bits whatever else is asked for with it.
template <typename T>
void logits_of(const HeadRows& head, int64_t first, int64_t count, const T* x, int64_t ldx, int64_t batch, T* out,
               int64_t ldo) {
  for (int64_t done = 0; done < count;) {
    int64_t row, left;
    const at::Tensor& matrix = head.of(first + done, row, left);
    const int64_t n = std::min(left, count - done), k = matrix.size(1), ld = matrix.stride(0);
    const bool side_by_side = matrix.stride(1) == 1 || k == 1;
    if (sizeof(T) == 4 && side_by_side && matrix.scalar_type() == at::kFloat)
      instruction_set().sampling->dots(matrix.const_data_ptr<float>() + row * ld, ld, n,
                                       reinterpret_cast<const float*>(x), ldx, batch, k,
                                       reinterpret_cast<float*>(out) + done, ldo);
    else if (sizeof(T) == 4 && side_by_side && matrix.scalar_type() == at::kBFloat16)
      instruction_set().sampling->dots_bf16(
          reinterpret_cast<const uint16_t*>(matrix.const_data_ptr<at::BFloat16>()) + row * ld, ld, n,
          reinterpret_cast<const float*>(x), ldx, batch, k, reinterpret_cast<float*>(out) + done, ldo);
    else plain_dots<T>(matrix, row, n, x, ldx, batch, out + done, ldo);
    done += n;
  }
}

// The ids of `rows`, whose hidden rows x [rows][k] lie side by side: every allowed logit is computed. -1: a NaN logit.
template <typename T>
std::vector<int64_t> draw_whole(const std::vector<Row>& rows, const T* x, int64_t k, const HeadRows& head,
                                double softcap);

}  // namespace mmpt
