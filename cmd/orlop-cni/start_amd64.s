#include "textflag.h"

DATA ·oneProcessor+0(SB)/8, $"GOMAXPRO"
DATA ·oneProcessor+8(SB)/8, $"CS=01\x00\x00\x00"
GLOBL ·oneProcessor(SB), RODATA|NOPTR, $16

// start is where the kernel starts the program: see main.go.
TEXT ·start(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ SP, SI
	SUBQ $16, SP // stays a multiple of 16
	MOVQ SP, DI
	MOVQ 0(SI), CX
	ADDQ $2, CX  // argc, argv, 0
	CLD
	REP; MOVSQ
environment:
	MOVQ 0(SI), AX
	TESTQ AX, AX
	JZ    end
	MOVSQ
	JMP   environment
end:
	LEAQ ·oneProcessor(SB), AX
	MOVQ AX, 0(DI)
	MOVQ AX, 8(DI)
	JMP  _rt0_amd64_linux(SB)
