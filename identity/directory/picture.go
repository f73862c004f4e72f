package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // the two kinds that are taken
	_ "image/png"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// Bounds of a picture.
const (
	maxPicture = 2 << 20  // bytes; Active Directory's thumbnailPhoto has 100 KB at most
	maxPixels  = 16 << 20 // of its area
)

// ErrPicture is a picture that is not taken; the error says why.
var ErrPicture = errors.New("directory: this picture cannot be used")

// Picture is somebody's picture in the directory.
type Picture struct {
	Type    string // "image/jpeg" or "image/png", as the content is
	Content []byte // nil: they have none
}

// Pictures reads pictures one by one, over one connection that is opened with the first.
type Pictures struct {
	d *Directory
	c *ldap.Conn
}

// Pictures begins to read pictures. Close it afterwards.
func (d *Directory) Pictures() *Pictures { return &Pictures{d: d} }

// Close ends the connection, if there is one.
func (p *Pictures) Close() {
	if p.c != nil {
		p.c.Close()
	}
}

// Of reads a person's picture: the first value of PictureAttr. Errors: ErrPicture,
// ErrUnavailable, ErrRefused.
func (p *Pictures) Of(ctx context.Context, who Person) (Picture, error) {
	if p.c == nil {
		c, err := p.d.reader(ctx)
		if err != nil {
			return Picture{}, err
		}
		p.c = c
	}
	stop := context.AfterFunc(ctx, func() { p.c.Close() })
	defer stop()
	req := ldap.NewSearchRequest(who.DN, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, int(p.d.c.Timeout/time.Second), false,
		"(objectClass=*)", []string{p.d.c.PictureAttr}, nil)
	res, err := p.c.Search(req)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject), err == nil && len(res.Entries) == 0:
		return Picture{}, nil // gone since; the next reading sees it
	case err != nil:
		return Picture{}, p.d.failure(err)
	}
	raw := res.Entries[0].GetEqualFoldRawAttributeValue(p.d.c.PictureAttr)
	if len(raw) == 0 {
		return Picture{}, nil
	}
	kind, err := sniff(raw)
	if err != nil {
		return Picture{}, err
	}
	return Picture{Type: kind, Content: raw}, nil
}

// sniff looks what a picture is: nobody says it with the attribute. Errors: ErrPicture.
func sniff(raw []byte) (mediaType string, err error) {
	if len(raw) > maxPicture {
		return "", fmt.Errorf("%w: it has %d KB, and the limit is %d KB", ErrPicture, len(raw)>>10, maxPicture>>10)
	}
	c, kind, err := image.DecodeConfig(bytes.NewReader(raw))
	switch {
	case err != nil || kind != "jpeg" && kind != "png":
		return "", fmt.Errorf("%w: it is neither JPEG nor PNG", ErrPicture)
	case c.Width <= 0 || c.Height <= 0 || c.Width > maxPixels/c.Height:
		return "", fmt.Errorf("%w: it has %d by %d pixels, which is too large", ErrPicture, c.Width, c.Height)
	}
	return "image/" + kind, nil
}
