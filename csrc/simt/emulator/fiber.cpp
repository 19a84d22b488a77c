// A switch costs a few nanoseconds: what a callee must keep is pushed, the stack pointers are exchanged.
// ucontext, which asks the kernel to save the signal mask each time, is left to the machines that have no
// switch here.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(FEWSTEP_UCONTEXT) || !(defined(__x86_64__) || defined(__aarch64__))
#define USE_UCONTEXT
#include <ucontext.h>
#endif

namespace simt::emulator {

namespace {

constexpr std::size_t kStackBytes = 64 * 1024;

std::size_t page() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

Stacks::Stacks(int count) : count_(count) {
  const std::size_t each = kStackBytes + page();
  void* mapped = mmap(nullptr, each * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<unsigned char*>(mapped);
  for (int i = 0; i < count; i++) mprotect(base_ + i * each, page(), PROT_NONE);
}

Stacks::~Stacks() { munmap(base_, (kStackBytes + page()) * count_); }

unsigned char* Stacks::top(int index) const { return base_ + (index + 1) * (kStackBytes + page()); }

#if defined(USE_UCONTEXT)

// The ucontext_t of a fiber lies at the top of its stack; that of the scheduler on its own.
void prepare(Context& context, unsigned char* top, void (*entry)()) {
  const auto below = reinterpret_cast<std::uintptr_t>(top) - sizeof(ucontext_t);
  auto* made = reinterpret_cast<ucontext_t*>(below & ~std::uintptr_t{63});
  unsigned char* bottom = top - kStackBytes;
  getcontext(made);
  made->uc_stack.ss_sp = bottom;
  made->uc_stack.ss_size = static_cast<std::size_t>(reinterpret_cast<unsigned char*>(made) - bottom);
  made->uc_link = nullptr;
  makecontext(made, entry, 0);
  context.resume = made;
}

void switch_context(Context& from, Context& to) {
  ucontext_t here;
  from.resume = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to.resume));
}

#elif defined(__x86_64__)

extern "C" void fewstep_simt_switch(void** from, void* to);
asm(R"(
    .text
    .type fewstep_simt_switch, @function
    .hidden fewstep_simt_switch
    .globl fewstep_simt_switch
fewstep_simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size fewstep_simt_switch, . - fewstep_simt_switch
)");

void prepare(Context& context, unsigned char* top, void (*entry)()) {
  auto* slot = reinterpret_cast<std::uintptr_t*>(top);
  *--slot = 0;  // where a caller would be: `entry` starts with the stack aligned as after a call
  *--slot = reinterpret_cast<std::uintptr_t>(entry);
  for (int saved = 0; saved < 6; saved++) *--slot = 0;
  context.resume = slot;
}

void switch_context(Context& from, Context& to) { fewstep_simt_switch(&from.resume, to.resume); }

#else

extern "C" void fewstep_simt_switch(void** from, void* to);
asm(R"(
    .text
    .type fewstep_simt_switch, %function
    .hidden fewstep_simt_switch
    .globl fewstep_simt_switch
fewstep_simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size fewstep_simt_switch, . - fewstep_simt_switch
)");

void prepare(Context& context, unsigned char* top, void (*entry)()) {
  auto* slot = reinterpret_cast<std::uintptr_t*>(top) - 20;
  for (int saved = 0; saved < 20; saved++) slot[saved] = 0;
  slot[11] = reinterpret_cast<std::uintptr_t>(entry);  // x30, where `ret` goes
  context.resume = slot;
}

void switch_context(Context& from, Context& to) { fewstep_simt_switch(&from.resume, to.resume); }

#endif

}  // namespace simt::emulator
