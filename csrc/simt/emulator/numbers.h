// The two 16-bit formats on a CPU: their bits, to and from float by round to nearest even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace simt {

struct bfloat16 {
  std::uint16_t bits;
};

struct half {
  std::uint16_t bits;
};

namespace emulator {

inline float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint32_t to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float to_float(bfloat16 value) { return from_bits(std::uint32_t{value.bits} << 16); }

inline float to_float(half value) {
  const std::uint32_t sign = std::uint32_t{value.bits} >> 15 << 31;
  const std::uint32_t rest = value.bits & 0x7fffu;
  if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest >= 0x400u) return from_bits(sign | ((rest << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(rest) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

template <class T>
T to_16_bits(float value);

template <>
inline bfloat16 to_16_bits<bfloat16>(float value) {
  const std::uint32_t bits = to_bits(value);
  if (std::isnan(value)) return {0x7fff};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
inline half to_16_bits<half>(float value) {
  const std::uint32_t bits = to_bits(value);
  const std::uint16_t sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  const std::uint32_t rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return {0x7fff};
  if (rest >= 0x477ff000u)
    return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // 65520 and above round to infinity
  if (rest < 0x38800000u) {  // below 2^-14 the spacing is 2^-24: adding 0.5 puts it in a float's last place
    const std::uint32_t rounded = to_bits(from_bits(rest) + 0.5f) - to_bits(0.5f);
    return {static_cast<std::uint16_t>(sign | rounded)};
  }
  const std::uint32_t rounded = rest + 0xfffu + (rest >> 13 & 1u) - (112u << 23);
  return {static_cast<std::uint16_t>(sign | rounded >> 13)};
}

}  // namespace emulator
}  // namespace simt
