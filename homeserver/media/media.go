// Package media keeps uploaded files and makes thumbnails of images.
//
// Invariants: contents are stored once by their hash and never change; a file is
// served so that a browser cannot run it (sandboxed, inline only for harmless
// types); decoding of images is bounded in pixels and in how many run at once;
// a thumbnail is never larger than its original.
package media

import (
	"time"

	"holdfast/store"
	"holdfast/store/blob"
)

// Options of New. Zero values of the limits mean the defaults in limits.go.
type Options struct {
	DB         *store.DB
	Blobs      *blob.Store
	ServerName string
	// MaxUpload is the largest file in bytes.
	MaxUpload int64
	// UserQuota is how many bytes a user may have stored; 0: no bound.
	UserQuota int64
	Now       func() time.Time // nil: time.Now
}
