// Command holdfast is the appliance: the server and the command line that
// administers it, in package appliance; and in the disk image the first program,
// in package image/boot.
package main

import (
	"context"
	"os"

	"holdfast/appliance"
	"holdfast/image/boot"
)

func main() {
	if boot.IsBoot() {
		os.Exit(boot.Main())
	}
	os.Exit(appliance.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
