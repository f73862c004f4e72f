//go:build linux

// Command line joins two network namespaces by a bad line for as long as its standard
// input is open, for tests that are not written in Go:
//
//	line NAMESPACE INTERFACE ADDRESS/LENGTH NAMESPACE INTERFACE ADDRESS/LENGTH
//
// It says "ready", and takes rules for both directions as lines of JSON, such as
// {"Loss":0.05,"DelayMS":100,"Rate":1000000}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"holdfast/test/calls/netem"
)

func main() {
	a := os.Args[1:]
	if len(a) != 6 {
		fmt.Fprintln(os.Stderr, "usage: line NAMESPACE INTERFACE ADDRESS/LENGTH NAMESPACE INTERFACE ADDRESS/LENGTH")
		os.Exit(2)
	}
	l, err := netem.Join(1, netem.End{Namespace: a[0], Interface: a[1], Address: a[2]}, netem.End{Namespace: a[3], Interface: a[4], Address: a[5]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer l.Close()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var r struct {
			Loss          float64
			DelayMS, Rate int
		}
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		l.Set(netem.Rules{Loss: r.Loss, Delay: time.Duration(r.DelayMS) * time.Millisecond, Rate: r.Rate})
		fmt.Println("set")
	}
}
