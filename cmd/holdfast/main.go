// Command holdfast is the appliance: the server and the command line that
// administers it. Everything is in package appliance.
package main

import (
	"context"
	"os"

	"holdfast/appliance"
)

func main() {
	os.Exit(appliance.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
