package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shell is a POSIX shell: sh -c COMMAND [NAME [ARG ...]], sh FILE, or commands
// from standard input. -e and -x are known.
func shell(s *stdio, args []string) error {
	params, source, rest := []string{}, "", args
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") && rest[0] != "-" {
		flags := rest[0][1:]
		rest = rest[1:]
		for _, f := range flags {
			switch f {
			case 'c':
				if len(rest) == 0 {
					return errors.New("-c wants a command")
				}
				source, rest = rest[0], rest[1:]
			case 'e', 'x', 'u':
				params = append(params, "-"+string(f))
			case 'i', 'l':
			default:
				return fmt.Errorf("unknown flag -%c", f)
			}
		}
	}
	name := "sh"
	var reader = s.in
	switch {
	case source != "":
		reader = strings.NewReader(source)
		if len(rest) > 0 {
			name, rest = rest[0], rest[1:]
		}
	case len(rest) > 0:
		f, err := os.Open(rest[0])
		if err != nil {
			return err
		}
		defer f.Close()
		reader, name, rest = f, rest[0], rest[1:]
	}
	prog, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(reader, name)
	if err != nil {
		return err
	}
	runner, err := interp.New(interp.StdIO(s.in, s.out, s.err), interp.Params(append(append(params, "--"), rest...)...))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err = runner.Run(ctx, prog)
	if ctx.Err() != nil {
		return exitCode(143) // 128 + SIGTERM
	}
	var status interp.ExitStatus
	if errors.As(err, &status) {
		return exitCode(status)
	}
	return err
}
