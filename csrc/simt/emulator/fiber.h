// A fiber: a stack of its own, entered and left by name. The switch itself is in fiber.cpp.
#pragma once

#include <cstddef>

namespace simt::emulator {

// Stacks for a number of fibers, each with a page below it that faults when touched.
class Stacks {
 public:
  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  unsigned char* top(int index) const;

 private:
  int count_;
  unsigned char* base_;
};

// Where a suspended flow of control resumes.
struct Context {
  void* resume = nullptr;
};

// Makes `context` one that calls `entry` on the stack below `top` when first switched to; `entry` never
// returns.
void prepare(Context& context, unsigned char* top, void (*entry)());

// Suspends the caller in `from` and resumes `to`.
void switch_context(Context& from, Context& to);

}  // namespace simt::emulator
