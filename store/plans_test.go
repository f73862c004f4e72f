package store

import (
	"encoding/binary"
	"testing"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// TestStablePlans opens a connection past this package and asks it what it was told.
func TestStablePlans(t *testing.T) {
	stablePlans()
	tls := libc.NewTLS()
	defer tls.Close()
	mem := libc.Xcalloc(tls, 1, 64) // a pointer, a number, and a list of two
	name, err := libc.CString(":memory:")
	if mem == 0 || err != nil {
		t.Fatal("no memory")
	}
	defer libc.Xfree(tls, mem)
	defer libc.Xfree(tls, name)
	if rc := sqlite3.Xsqlite3_open_v2(tls, name, mem, sqlite3.SQLITE_OPEN_READWRITE|sqlite3.SQLITE_OPEN_MEMORY, 0); rc != sqlite3.SQLITE_OK {
		t.Fatalf("opening gives %d", rc)
	}
	db := uintptr(binary.NativeEndian.Uint64(libc.GoBytes(mem, 8))) // of the 64-bit machines that Holdfast is for
	defer sqlite3.Xsqlite3_close(tls, db)
	is := mem + 8
	if rc := sqlite3.Xsqlite3_db_config(tls, db, sqlite3.SQLITE_DBCONFIG_ENABLE_QPSG, libc.VaList(mem+16, int32(-1), is)); rc != sqlite3.SQLITE_OK {
		t.Fatalf("asking gives %d", rc)
	}
	if binary.NativeEndian.Uint32(libc.GoBytes(is, 4)) != 1 {
		t.Error("a new connection makes plans anew for each value")
	}
}
