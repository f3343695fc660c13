// What this processor, and the kernel that runs on it, can do.
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

// Whether this process may use AMX's tiles of bfloat16: Linux gives their room to those that ask.
bool may_use_tiles() {
#if defined(__x86_64__) && defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int ASK_FOR = 0x1023, TILES = 18;         // ARCH_REQ_XCOMP_PERM, XTILEDATA
  constexpr unsigned HAS_TILES = 1u << 24 | 1u << 22;  // AMX-TILE, AMX-BF16
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & HAS_TILES) == HAS_TILES &&
         syscall(SYS_arch_prctl, ASK_FOR, TILES) == 0;
#else
  return false;
#endif
}

}  // namespace

// The best level of this processor: 0 baseline, 1 AVX2, 2 AVX-512, 3 AVX-512 with bfloat16 products, 4 with
// AMX's tiles too. To be called in each process before a function of the last level is.
extern "C" __attribute__((visibility("default"))) int processor_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return 1;
  if (!__builtin_cpu_supports("avx512bf16")) return 2;
  return may_use_tiles() ? 4 : 3;
#else
  return 0;
#endif
}

// Whether its products of bfloat16 take more time than those of float32: Intel's do outside of AMX.
extern "C" __attribute__((visibility("default"))) int bf16_is_slow() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_is("intel") ? 1 : 0;
#else
  return 0;
#endif
}
