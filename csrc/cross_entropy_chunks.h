// How many rows of logits the CUDA loss holds at once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace mmpt {

constexpr int64_t kRowStep = 128;
constexpr int64_t kTileRows = 128, kTileColumns = 256;  // of a block of cuBLAS's bf16 product on sm_90
constexpr int64_t kChunkBytes = int64_t(896) << 20;     // of logits: a call stays below 1 GB at H = 1,024, N = 8,192

// Rows of a chunk: a multiple of kRowStep, no more than kChunkBytes of logits.
//
// The product for d_hidden, [rows, V] @ [V, H], has rows / 128 * H / 256 tiles, each as long as V; those that do not
// fill a wave of multiprocessors leave the rest idle. So all chunks together take the fewest waves; among equals the
// fewest chunks, since each reads the head again; among those the fewest rows. H = 4,096 on 132 multiprocessors: 1,536
// rows are 192 tiles in 2 waves (73 %), 2,048 are 256 in 2 (97 %).
inline int64_t chunk_rows(int64_t rows, int64_t dimensions, int64_t row_bytes, int64_t multiprocessors) {
  const auto parts = [](int64_t value, int64_t step) { return (value + step - 1) / step; };
  const int64_t across = std::max<int64_t>(parts(dimensions, kTileColumns), 1);
  const auto waves = [&](int64_t count) {
    return parts(parts(count, kTileRows) * across, std::max<int64_t>(multiprocessors, 1));
  };
  const int64_t all = std::max(parts(rows, kRowStep) * kRowStep, kRowStep);
  const int64_t most = std::clamp(kChunkBytes / row_bytes / kRowStep * kRowStep, kRowStep, all);
  int64_t best = most, fewest_waves = std::numeric_limits<int64_t>::max(), fewest_chunks = fewest_waves;
  for (int64_t step = kRowStep; step <= most; step += kRowStep) {
    const int64_t total = rows / step * waves(step) + waves(rows % step), chunks = parts(rows, step);
    if (total < fewest_waves || (total == fewest_waves && chunks < fewest_chunks))
      best = step, fewest_waves = total, fewest_chunks = chunks;
  }
  return best;
}

}  // namespace mmpt
