// Tile registers (AMX): whether there are any, and whether this process may use them.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 11
#define METASD_AMX 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace metasd {

// The system has to be asked before the first use, once for all threads.
inline bool tiles_permitted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(2)
  static const bool permitted = __builtin_cpu_supports("amx-tile") &&
                                syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
}

}  // namespace metasd
#endif
