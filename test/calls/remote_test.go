package calls

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/appliance"
	"holdfast/appliance/appliancetest"
)

// A user of another appliance proves by it who they are, over TLS with that appliance's
// own authority. Whose server is not in the list is refused, and nobody is asked.
func TestOtherAppliance(t *testing.T) {
	_, port, _ := strings.Cut(freePort(t), ":")
	name := "localhost:" + port
	there := appliancetest.StartBare(t, "server_name="+name, "tls.mode=own-ca", "listen.https=127.0.0.1:"+port, "listen.http=127.0.0.1:0",
		"listen.redirect=", "listen.metrics=", "limits.enabled=false", "sfu.enabled=false")
	bob := there.Login(t, "bob")
	proof := openID(t, bob)
	if proof["matrix_server_name"] != name {
		t.Fatal(proof)
	}
	listed := house{appliancetest.Start(t, "sfu.enabled=true", "network.allow_private=true",
		"sfu.remote_servers=elsewhere.example, "+name, "sfu.remote_ca="+filepath.Join(there.Data, "tls", "ca.crt"))}
	roomID := listed.makeRoom(t, listed.Login(t, "alice"))
	if code, out := listed.ask(t, roomID, bob.Device, proof, nil); code != http.StatusForbidden {
		t.Errorf("proved, and not in the room: %d %v", code, out)
	}
	forged := map[string]any{}
	for k, v := range proof {
		forged[k] = v
	}
	forged["access_token"] = "made up"
	if code, out := listed.ask(t, roomID, bob.Device, forged, nil); code != http.StatusUnauthorized {
		t.Errorf("a token that the other server does not know: %d %v", code, out)
	}
	closed := house{appliancetest.Start(t, "sfu.enabled=true", "network.allow_private=true", "sfu.remote_servers=elsewhere.example")}
	if code, out := closed.ask(t, roomID, bob.Device, proof, nil); code != http.StatusUnauthorized {
		t.Errorf("a server that is not in the list: %d %v", code, out)
	}
	there.Close()
	if code, out := listed.ask(t, roomID, bob.Device, proof, nil); code != http.StatusBadGateway {
		t.Errorf("the other server is down: %d %v", code, out)
	}
	// What cannot be used is told at the start.
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := appliance.Main(t.Context(), []string{"serve", "--data", t.TempDir(), "--set", "server_name=hs.test", "--set", "tls.mode=off", "--set", "listen.http=127.0.0.1:0",
		"--set", "listen.metrics=", "--set", "sfu.enabled=false", "--set", "sfu.remote_servers=" + name, "--set", "sfu.remote_ca=" + ca}, &out, &errs); code == 0 || !bytes.Contains(errs.Bytes(), []byte("sfu.remote_ca")) {
		t.Errorf("%d %s", code, errs.String())
	}
}
