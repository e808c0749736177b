// Which of the compiled instruction sets this processor runs. Asked once; a test may name a lower one.
#include <atomic>
#include <cstring>

#include "tiles.h"

#ifdef MMPT_X86_SETS
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace mmpt {
namespace {

#ifdef MMPT_X86_SETS
// AMX needs the processor, and the kernel's leave to use the tile registers' state.
bool amx_works() {
#ifdef __linux__
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25, kBf16 = 1u << 22;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kTile) || !(d & kInt8) || !(d & kBf16)) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

const InstructionSet* runs(const char* name) {
  const bool any = !name[0];
#ifdef MMPT_X86_SETS
  const auto asked = [&](const char* set) { return any || !std::strcmp(name, set); };
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  if (asked("amx") && bf16 && amx_works()) return &amx_set();
  if (asked("avx512_bf16") && bf16) return &avx512_bf16_set();
  if (asked("avx512") && avx512) return &avx512_set();
  if (asked("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2_set();
#endif
  return any || !std::strcmp(name, "generic") ? &generic_set() : nullptr;
}

std::atomic<const InstructionSet*> chosen{nullptr};

}  // namespace

const InstructionSet& instruction_set() {
  const InstructionSet* set = chosen.load();
  if (!set) chosen.store(set = runs(""));
  return *set;
}

bool select_instruction_set(const char* name) {
  const InstructionSet* set = runs(name);
  if (set) chosen.store(set);
  return set != nullptr;
}

}  // namespace mmpt
