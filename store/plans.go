package store

import (
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite is built with STAT4 here, and then compiles a statement anew whenever a
// parameter is bound that its plan may depend on, such as that of a LIMIT: at every
// use. None of our plans gain by the values, so each connection asks for plans that
// do not depend on them, before anything else uses it.
// Source: sqlite.org/c3ref/c_dbconfig_defensive.html (SQLITE_DBCONFIG_ENABLE_QPSG),
// sqlite.org/c3ref/auto_extension.html

// stablePlans makes all connections of this process that are opened from now on ask
// for stable plans.
var stablePlans = sync.OnceFunc(func() {
	tls := libc.NewTLS()
	defer tls.Close()
	// As C would see it, a Go function is what the first word of its value points to.
	f := askForStablePlans
	sqlite3.Xsqlite3_auto_extension(tls, *(*uintptr)(unsafe.Pointer(&struct {
		f func(tls *libc.TLS, db, pzErrMsg, pThunk uintptr) int32
	}{f})))
})

func askForStablePlans(tls *libc.TLS, db, _, _ uintptr) int32 {
	const slots = 2 // of a variable list: 8 bytes each
	args := libc.Xmalloc(tls, slots*8)
	if args == 0 {
		return sqlite3.SQLITE_NOMEM
	}
	defer libc.Xfree(tls, args)
	return sqlite3.Xsqlite3_db_config(tls, db, sqlite3.SQLITE_DBCONFIG_ENABLE_QPSG, libc.VaList(args, int32(1), uintptr(0)))
}
