// A row's parameters on the device, for the kernels of sampling.
#pragma once

#include "cuda_device.cuh"
#include "sampling.cuh"

namespace mmpt {

template <typename T>
__device__ __forceinline__ T parameter(const DeviceParameter<T>& of, int64_t row) {
  return of.rows ? of.rows[row * of.step] : of.value;
}

struct Range {
  int64_t lo, hi, extra;
  int side;  // of the extra id: -1 below the range, 1 above, 0 absent or inside
  bool valid;
  __device__ int64_t count() const { return hi - lo + (side ? 1 : 0); }
  __device__ int64_t id(int64_t column) const {
    if (side < 0) return column == 0 ? extra : lo + column - 1;
    return column == hi - lo ? extra : lo + column;
  }
};

__device__ inline Range range_of(const DeviceSampling& how, int64_t row) {
  Range r{parameter(how.lo, row), parameter(how.hi, row), parameter(how.extra, row), 0, false};
  r.side = r.extra >= r.hi ? 1 : r.extra >= 0 && r.extra < r.lo ? -1 : 0;
  r.valid =
      r.lo >= 0 && r.lo < r.hi && r.hi <= how.vocabulary && r.extra < how.vocabulary && r.hi - r.lo <= how.max_range;
  return r;
}

}  // namespace mmpt
