//go:build ignore

// Command make writes words.bin from the words on standard input, one a line:
//
//	node -e 'const w=require("zxcvbn/lib/frequency_lists.js").passwords; console.log(w.join("\n"))' | go run make.go
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"log"
	"os"
	"slices"
)

func main() {
	var all [][]byte
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if w := bytes.TrimSpace(in.Bytes()); len(w) >= 4 {
			h := sha256.Sum256(w)
			all = append(all, h[:4])
		}
	}
	if err := in.Err(); err != nil {
		log.Fatal(err)
	}
	slices.SortFunc(all, bytes.Compare)
	all = slices.CompactFunc(all, bytes.Equal)
	if err := os.WriteFile("words.bin", bytes.Join(all, nil), 0o644); err != nil {
		log.Fatal(err)
	}
	log.Print(len(all), " words")
}
