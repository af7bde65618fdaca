package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// consume uses up what it is told to, says so, and stays: it is the pod that a node has too little for.
func consume(s *stdio, args []string) error {
	fs := flag.NewFlagSet("consume", flag.ContinueOnError)
	fs.SetOutput(s.err)
	memory := fs.Int("memory", 0, "MiB of memory to hold")
	after := fs.Duration("after", 0, "wait before anything is used")
	file := fs.String("file", "", "file to write")
	mib := fs.Int("size", 1, "MiB of the file")
	dir := fs.String("dir", "", "directory to make files in")
	count := fs.Int("count", 1, "how many")
	processes := fs.Int("processes", 0, "processes to start")
	log := fs.Int("log", 0, "KiB to print")
	rate := fs.Duration("every", 0, "pause between printed lines")
	if err := fs.Parse(args); err != nil {
		return err
	}
	time.Sleep(*after)
	held := make([]byte, *memory<<20)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	if *file != "" {
		if err := fill(*file, *mib); err != nil {
			return err
		}
	}
	if *dir != "" {
		for i := range *count {
			if err := os.WriteFile(filepath.Join(*dir, fmt.Sprintf("file-%d", i)), nil, 0o644); err != nil {
				return err
			}
		}
	}
	for range *processes {
		if err := exec.Command(os.Args[0], "sleep", "3600").Start(); err != nil {
			return err
		}
	}
	for i := range *log << 4 { // lines of 64 bytes
		fmt.Fprintf(s.out, "%08d%s\n", i, strings.Repeat(".", 55))
		time.Sleep(*rate)
	}
	fmt.Fprintln(s.out, "consumed")
	for {
		time.Sleep(time.Hour)
		for i := 0; i < len(held); i += 4096 {
			held[i]++ // it stays in use
		}
	}
}

func fill(path string, mib int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for range mib {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return f.Sync()
}
