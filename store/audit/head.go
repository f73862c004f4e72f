package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// head is the end of the log.
type head struct {
	seq  int64
	hash []byte
}

// headFile is what the file beside the database has.
type headFile struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
	MAC  string `json:"mac"`
}

func headMAC(key []byte, h head) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("holdfast audit head\x00" + strconv.FormatInt(h.seq, 10) + "\x00"))
	m.Write(h.hash)
	return m.Sum(nil)
}

// readHead reads the file. A missing one is the zero head; what is wrong with it is problem.
func readHead(path string, key []byte) (h head, problem string) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return head{}, ""
	}
	if err != nil {
		return head{}, fmt.Sprintf("the file %s cannot be read: %v", filepath.Base(path), err)
	}
	var f headFile
	bad := json.Unmarshal(b, &f) != nil
	hash, err1 := hex.DecodeString(f.Hash)
	sum, err2 := hex.DecodeString(f.MAC)
	h = head{f.Seq, hash}
	if bad || err1 != nil || err2 != nil || h.seq < 1 || !hmac.Equal(sum, headMAC(key, h)) {
		return head{}, fmt.Sprintf("the file %s was not written by this appliance, or by another key", filepath.Base(path))
	}
	return h, ""
}

func writeHead(path string, key []byte, h head) error {
	b, err := json.Marshal(headFile{h.seq, hex.EncodeToString(h.hash), hex.EncodeToString(headMAC(key, h))})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return err
}

func (l *Log) setHead(h head) {
	l.mu.Lock()
	l.head = h
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// headPause is the time between two writes of the file, so that many entries cost one.
const headPause = time.Second

// keepHead writes the file after entries, outside the database's writer.
func (l *Log) keepHead() {
	defer close(l.done)
	for {
		select {
		case <-l.wake:
			l.flush()
			l.tell()
			select {
			case <-time.After(headPause):
			case <-l.closing:
			}
		case <-l.closing:
			l.flush()
			return
		}
	}
}

// tell passes on trouble that began since the log was opened, outside the writer.
func (l *Log) tell() {
	l.mu.Lock()
	trouble := l.trouble
	news := trouble != l.told
	l.told = trouble
	l.mu.Unlock()
	if news && l.o.Alarm != nil {
		l.o.Alarm(trouble)
	}
}

func (l *Log) flush() {
	l.mu.Lock()
	h, old := l.head, l.written
	l.mu.Unlock()
	if h.seq == old.seq {
		return
	}
	if err := writeHead(l.o.Head, l.o.Key, h); err != nil {
		l.o.Log.Error("the end of the audit log cannot be noted outside the database", "file", l.o.Head, "err", err)
		return
	}
	l.mu.Lock()
	l.written = h
	l.mu.Unlock()
}

// Head is the number and the hash of the last entry, for people to note elsewhere.
func (l *Log) Head() (seq int64, hash string) {
	if l == nil {
		return 0, ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.seq, hex.EncodeToString(l.head.hash)
}

// Close writes the head file. Call it before the store is closed, after the last entry.
func (l *Log) Close() {
	if l == nil {
		return
	}
	l.once.Do(func() {
		close(l.closing)
		<-l.done
	})
}
