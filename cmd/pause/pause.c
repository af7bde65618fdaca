//go:build ignore

/*
 * pause holds the namespaces of a pod. It is process 1 of the sandbox: it
 * sleeps, reaps the zombies that a shared PID namespace hands it, and ends
 * with status 0 on SIGTERM or SIGINT. No libc, no allocation, no handlers:
 * the three signals are blocked and waited for, because process 1 gets no
 * default action for a signal, and a blocked one is kept, not dropped.
 */

#define SIGINT 2
#define SIGTERM 15
#define SIGCHLD 17
#define SIG_BLOCK 0
#define WNOHANG 1

#if defined(__x86_64__)
enum { NR_rt_sigprocmask = 14, NR_wait4 = 61, NR_rt_sigtimedwait = 128, NR_exit_group = 231 };

static long syscall4(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
enum { NR_rt_sigprocmask = 135, NR_wait4 = 260, NR_rt_sigtimedwait = 137, NR_exit_group = 94 };

static long syscall4(long nr, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#else
#error "pause knows the system calls of x86_64 and aarch64 only"
#endif

static unsigned long bit(int sig)
{
	return 1UL << (sig - 1);
}

__attribute__((noreturn)) void _start(void)
{
	unsigned long set = bit(SIGINT) | bit(SIGTERM) | bit(SIGCHLD);

	syscall4(NR_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof(set));
	for (;;) {
		long sig = syscall4(NR_rt_sigtimedwait, (long)&set, 0, 0, sizeof(set));

		if (sig == SIGINT || sig == SIGTERM)
			syscall4(NR_exit_group, 0, 0, 0, 0);
		while (sig == SIGCHLD && syscall4(NR_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
