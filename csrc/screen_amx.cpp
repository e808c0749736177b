// Products of codes by AMX_INT8. The hidden rows are the left operand, so that a tile of the right one is 16 ids as
// they lie in memory: the codes are read once, in order.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,bmi,bmi2,amx-tile,amx-int8")
#include "amx_scope.h"
#include "tiles.h"

namespace mmpt {
namespace {

constexpr int64_t kTileIds = 16, kTileRows = 16;
constexpr int64_t kOutBytes = kScreenIds * sizeof(int32_t);

// out [16 or 32 rows][32 ids]: tiles 0..3 accumulate, 4 and 5 hold rows, 6 and 7 hold ids.
template <bool Two>
inline void block(const uint8_t* codes, const int8_t* x, int64_t depth, int32_t* out) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < depth; k += 64) {
    _tile_loadd(6, codes + k * kTileIds, 64);
    _tile_loadd(7, codes + (depth + k) * kTileIds, 64);
    _tile_loadd(4, x + k, depth);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    if constexpr (Two) {
      _tile_loadd(5, x + kTileRows * depth + k, depth);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }
  _tile_stored(0, out, kOutBytes);
  _tile_stored(1, out + kTileIds, kOutBytes);
  if constexpr (Two) {
    _tile_stored(2, out + kTileRows * kScreenIds, kOutBytes);
    _tile_stored(3, out + kTileRows * kScreenIds + kTileIds, kOutBytes);
  }
}

}  // namespace

void screen_dots_amx(const uint8_t* codes, const int8_t* x, int64_t rows, int64_t depth, int32_t* out) {
  TileShape shape;
  if (rows < kTileRows)  // a product takes as long as its left operand has rows
    shape.rows[0] = shape.rows[1] = shape.rows[4] = uint8_t(rows);
  const TileScope tiles(shape);
  for (int64_t id = 0; id < kScreenIds; id += 2 * kTileIds) {
    int64_t r = 0;
    for (; r + kTileRows < rows; r += 2 * kTileRows)
      block<true>(codes + id * depth, x + r * depth, depth, out + r * kScreenIds + id);
    if (r < rows) block<false>(codes + id * depth, x + r * depth, depth, out + r * kScreenIds + id);
  }
}

}  // namespace mmpt
#endif
