// Command idp is a SAML 2.0 identity provider for the browser tests: that of the Go tests,
// crewjam/saml's, in a process of its own. It prints its address and one where the tests
// steer it: POST /know takes the metadata of a service provider, POST /person signs Dora in
// there, GET /ended tells whom a service provider signed out. It ends with its standard input.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	crew "github.com/crewjam/saml"

	"holdfast/identity/saml/samltest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "idp:", err)
		os.Exit(1)
	}
}

func run() error {
	idp, err := samltest.Start()
	if err != nil {
		return err
	}
	defer idp.Server.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /know", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			_, err = idp.Learn(raw)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("POST /person", func(w http.ResponseWriter, r *http.Request) {
		idp.SignIn("id-of-dora", string(crew.PersistentNameIDFormat), "dora", "Dora D", "session-of-dora")
	})
	mux.HandleFunc("GET /ended", func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(idp.Ended()) })
	control := httptest.NewServer(mux)
	defer control.Close()
	fmt.Println(idp.Server.URL, control.URL)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
