#include "textflag.h"

DATA ·oneProcessor+0(SB)/8, $"GOMAXPRO"
DATA ·oneProcessor+8(SB)/8, $"CS=01\x00\x00\x00"
GLOBL ·oneProcessor(SB), RODATA|NOPTR, $16

// start is where the kernel starts the program: see main.go.
TEXT ·start(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVD RSP, R1
	SUB  $16, RSP // stays a multiple of 16
	MOVD RSP, R2
	MOVD 0(R1), R3
	ADD  $2, R3   // argc, argv, 0
arguments:
	MOVD.P 8(R1), R4
	MOVD.P R4, 8(R2)
	SUBS   $1, R3
	BNE    arguments
environment:
	MOVD 0(R1), R4
	CBZ  R4, end
	MOVD.P R4, 8(R2)
	ADD  $8, R1
	B    environment
end:
	MOVD $·oneProcessor(SB), R4
	MOVD R4, 0(R2)
	MOVD R4, 8(R2)
	B    _rt0_arm64_linux(SB)
