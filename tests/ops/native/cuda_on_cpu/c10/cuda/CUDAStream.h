// The few names of c10::cuda that ops_cuda.cpp uses, for a device that is the CPU, and the products that CPUs do not have.
#pragma once
#include <ATen/Functions.h>
#include <c10/core/Device.h>

#include "../../cuda_runtime_api.h"
#define C10_CUDA_KERNEL_LAUNCH_CHECK() emulated::check_launch()
namespace c10::cuda {
inline void* getCurrentCUDAStream() { return nullptr; }
struct CUDAGuard {
  explicit CUDAGuard(c10::Device) {}
};
enum class CaptureStatus { None };
inline CaptureStatus currentStreamCaptureStatusMayInitCtx() { return CaptureStatus::None; }
}  // namespace c10::cuda
namespace emulated {
// Products of 16-bit matrices into a wider one, as cuBLAS has them.
inline void multiply_wide(at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool add) {
  const at::Tensor product = at::mm(a.to(out.scalar_type()), b.to(out.scalar_type()));
  if (add) out.add_(product);
  else out.copy_(product);
}
}  // namespace emulated
