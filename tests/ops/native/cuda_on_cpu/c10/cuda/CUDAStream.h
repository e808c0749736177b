// The few names of c10::cuda that ops_cuda.cpp uses, for a device that is the CPU.
#pragma once
#include <c10/core/Device.h>
#define C10_CUDA_KERNEL_LAUNCH_CHECK()
namespace c10::cuda {
inline void* getCurrentCUDAStream() { return nullptr; }
struct CUDAGuard {
  explicit CUDAGuard(c10::Device) {}
};
enum class CaptureStatus { None };
inline CaptureStatus currentStreamCaptureStatusMayInitCtx() { return CaptureStatus::None; }
}  // namespace c10::cuda
