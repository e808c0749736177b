// The data of the CPU's masked cross-entropy: supervised rows, the head's segments, blocks of hidden rows, scratch.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "tiles.h"

namespace mmpt {

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

template <typename T>
struct Buffer {  // uninitialised, 64-byte aligned
  explicit Buffer(int64_t count)
      : data(count ? static_cast<T*>(std::aligned_alloc(64, round_up(count * int64_t(sizeof(T)), 64))) : nullptr) {
    TORCH_CHECK(!count || data, "out of memory: ", count * int64_t(sizeof(T)), " bytes of scratch");
  }
  Buffer(Buffer&& other) noexcept : data(std::exchange(other.data, nullptr)) {}
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
  T* data;
};

// Rows that share a range, and where they start in the ordered rows.
struct Span {
  int64_t lo, hi, begin, end;
};

// The supervised rows of a call, ordered by range, with the numbers that belong to each.
struct Supervised {
  std::vector<int64_t> row, target;
  std::vector<double> weight;
  std::vector<Span> spans;
};

// Elements [rows][columns] of a strided matrix as D, side by side with zeros up to `width`.
template <typename D>
void gather(const at::Tensor& matrix, int64_t first, int64_t rows, D* out, int64_t width) {
  const int64_t columns = matrix.size(1), row_step = matrix.stride(0), step = matrix.stride(1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, matrix.scalar_type(), "gather", [&] {
    const scalar_t* data = matrix.const_data_ptr<scalar_t>() + first * row_step;
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) out[i * width + j] = static_cast<D>(data[i * row_step + j * step]);
      std::fill(out + i * width + columns, out + (i + 1) * width, D(0.f));
    }
  });
}

// Rows [rows][width] of sums, their first columns, as rows `first` ... of a contiguous matrix.
template <typename S>
void store_rows(const S* sums, int64_t width, int64_t rows, at::Tensor& matrix, int64_t first) {
  const int64_t columns = matrix.size(1);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, matrix.scalar_type(), "store_rows", [&] {
    scalar_t* out = matrix.mutable_data_ptr<scalar_t>() + first * columns;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) out[i * columns + j] = static_cast<scalar_t>(sums[i * width + j]);
  });
}

// One matrix of the head: ids first .. first + count.
template <typename T>
struct Segment {
  const at::Tensor* weight;
  int64_t first, count;
  bool pairs;         // bf16 products
  bool in_place;      // tiles are read as they lie in memory
  T* grad;            // [count][H], null where it does not train, or trains in one go:
  bool grad_fresh;    // grad holds nothing yet: the first block of rows writes it
  at::Tensor narrow;  // [count][H] in the weight's own, narrower dtype, written by the only chunk of rows

  bool trains() const { return grad || narrow.defined(); }

  // Rows of a tile, and their distance in elements.
  const void* tile(int64_t row, int64_t n, int64_t padded, void* scratch, int64_t& ld) const {
    if (in_place) {
      ld = weight->stride(0);
      return static_cast<const char*>(weight->const_data_ptr()) + row * ld * weight->element_size();
    }
    ld = padded;
    if (pairs) gather(*weight, row, n, static_cast<at::BFloat16*>(scratch), padded);
    else gather(*weight, row, n, static_cast<T*>(scratch), padded);
    return scratch;
  }
};

// One block of hidden rows, in the layouts the products want.
template <typename T>
struct Block {
  Block(const at::Tensor& hidden, const int64_t* row, int64_t count, int64_t lanes, int64_t padded, bool plain,
        bool pairs)
      : count(count),
        lanes(lanes),
        rows(plain ? lanes * padded : 0),
        columns(plain ? lanes * padded : 0),
        pair_rows(pairs ? lanes * padded : 0),
        pair_columns(pairs ? lanes * padded / 2 : 0) {
    for (int64_t lane = 0; lane < count && plain; ++lane)
      gather(hidden, row[lane], 1, rows.data + lane * padded, padded);
    if (plain) {
      std::fill(rows.data + count * padded, rows.data + lanes * padded, T(0));
      for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t k = 0; k < padded; ++k) columns.data[k * lanes + lane] = rows.data[lane * padded + k];
    }
    for (int64_t lane = 0; lane < count && pairs; ++lane)
      gather(hidden, row[lane], 1, pair_rows.data + lane * padded, padded);
    if (pairs) {
      std::fill(pair_rows.data + count * padded, pair_rows.data + lanes * padded, at::BFloat16(0.f));
      for (int64_t lane = 0; lane < lanes; ++lane)
        for (int64_t k = 0; k < padded / 2; ++k)
          std::memcpy(pair_columns.data + k * lanes + lane, pair_rows.data + lane * padded + 2 * k, 4);
    }
  }
  int64_t count, lanes;
  Buffer<T> rows;                  // [lanes][padded]
  Buffer<T> columns;               // [padded][lanes]
  Buffer<at::BFloat16> pair_rows;  // [lanes][padded]
  Buffer<uint32_t> pair_columns;   // [padded / 2][lanes]
};

template <typename T>
struct Scratch {
  Scratch(int64_t tile, int64_t padded, bool gathers, bool gathers_gradient)
      : logits(tile * kBlock),
        ids(tile * kBlock / 2 + 16 * kBlock),
        lanes(tile * kBlock),
        weight(gathers ? tile * padded : 0),
        gradient(gathers_gradient ? tile * padded : 0) {}
  Buffer<T> logits;        // [tile][lanes]
  Buffer<uint32_t> ids;    // pairs over ids, [lanes][tile / 2]
  Buffer<uint16_t> lanes;  // bf16 [tile][lanes]
  Buffer<T> weight;        // a tile that could not be read in place
  Buffer<T> gradient;      // weight gradients of a tile that cannot be summed where they belong
};

}  // namespace mmpt
