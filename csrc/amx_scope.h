// The shape of AMX's eight tiles, while a scope lasts; included by files that are compiled for AMX.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mmpt {
namespace {

struct alignas(64) TileShape {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Others (oneDNN) configure tiles too: what was there is put back.
class TileScope {
 public:
  explicit TileScope(const TileShape& shape = TileShape()) {
    _tile_storeconfig(&saved_);
    __asm__ volatile("" : : "r"(&shape) : "memory");  // the intrinsic reads 64 bytes and tells the compiler of 8
    _tile_loadconfig(&shape);
  }
  ~TileScope() { _tile_loadconfig(&saved_); }

 private:
  alignas(64) uint8_t saved_[64];
};

}  // namespace
}  // namespace mmpt
