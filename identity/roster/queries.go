package roster

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"holdfast/identity/account"
	"holdfast/store"
	"holdfast/store/audit"
)

// row is a directory as it is stored.
type row struct {
	id, config string
	synced     time.Time
	report     Report
}

const selectDirectories = `SELECT id, config, synced, report FROM id_directories ORDER BY id`

func (r *Roster) load(ctx context.Context) (out []row, err error) {
	err = r.o.DB.Read(ctx, func(q store.Querier) error {
		rows, err := q.Query(selectDirectories)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var (
				x      row
				synced int64
				report string
			)
			if err := rows.Scan(&x.id, &x.config, &synced, &report); err != nil {
				return err
			}
			if synced != 0 {
				x.synced = time.UnixMilli(synced)
			}
			if err := json.Unmarshal([]byte(report), &x.report); err != nil {
				return err
			}
			out = append(out, x)
		}
		return rows.Err()
	})
	return out, err
}

const upsertDirectorySQL = `INSERT INTO id_directories (id, config, created, synced, report) VALUES ($1, $2, $3, 0, '{}')
ON CONFLICT (id) DO UPDATE SET config = excluded.config`

func upsertDirectory(tx *store.Tx, id, config string, now time.Time) error {
	_, err := tx.Exec(upsertDirectorySQL, id, config, now.UnixMilli())
	return err
}

const (
	deleteDirectorySQL = `DELETE FROM id_directories WHERE id = $1`
	deleteLinks        = `DELETE FROM id_directory_people WHERE directory = $1`
)

func deleteDirectory(tx *store.Tx, id string) error {
	n, err := tx.Exec(deleteDirectorySQL, id)
	if err == nil && n == 0 {
		err = ErrNoDirectory
	}
	if err == nil {
		_, err = tx.Exec(deleteLinks, id)
	}
	return err
}

const (
	selectReport = `SELECT report FROM id_directories WHERE id = $1`
	updateReport = `UPDATE id_directories SET report = $2, synced = max(synced, $3) WHERE id = $1`
)

// keep stores a report; asked: somebody wanted it now. It reports whether the one before had the same alarm.
func (r *Roster) keep(ctx context.Context, id string, report Report, taken, asked, anyway bool) (alarmed bool, err error) {
	b, err := json.Marshal(report)
	if err != nil {
		return false, err
	}
	var synced int64
	if taken {
		synced = report.At.UnixMilli()
	}
	err = r.o.DB.Write(ctx, func(tx *store.Tx) error {
		var old string
		var before Report
		if err := tx.QueryRow(selectReport, id).Scan(&old); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(old), &before); err != nil {
			return err
		}
		alarmed = before.Alarm
		if _, err := tx.Exec(updateReport, id, string(b), synced); err != nil {
			return err
		}
		// One that changed nothing is no news: there are hundreds a day.
		if !asked && report.Alarm == alarmed && len(report.Made)+len(report.Locked)+len(report.Unlocked) == 0 {
			return nil
		}
		d := audit.Data{"people": report.People, "made": report.Made, "locked": report.Locked, "unlocked": report.Unlocked}
		if report.Alarm {
			d = audit.Data{"people": report.People, "alarm": true, "would_be_locked": report.Locked}
		}
		if anyway {
			d["anyway"] = true
		}
		if report.Error != "" {
			d["error"] = report.Error
		}
		return r.o.Audit.Tx(ctx, tx, audit.Event{Name: "directory.sync", Target: id, Data: d})
	})
	return alarmed, err
}

// link is a person of a directory who has an account.
type link struct {
	directory, subject, user, name, full string
	locked                               bool
	// Of the picture: the entry's stamp when it was last read, its SHA-256, its mxc://
	// address, and why the one there is now is not taken.
	stamp, picture, avatar, trouble string
}

const linkColumns = `SELECT directory, subject, user_id, name, full_name, locked, stamp, picture, avatar, trouble FROM id_directory_people `

const selectLink = linkColumns + `WHERE user_id = $1`

// loadLink finds the link of an account; a zero one: it is local.
func loadLink(q store.Querier, userID string) (l link, err error) {
	err = q.QueryRow(selectLink, userID).Scan(&l.directory, &l.subject, &l.user, &l.name, &l.full, &l.locked, &l.stamp, &l.picture, &l.avatar, &l.trouble)
	if errors.Is(err, store.ErrNotFound) {
		return link{}, nil
	}
	return l, err
}

const selectLinks = linkColumns + `WHERE directory = $1 ORDER BY name`

func listLinks(q store.Querier, directory string) (out []link, err error) {
	rows, err := q.Query(selectLinks, directory)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var l link
		if err := rows.Scan(&l.directory, &l.subject, &l.user, &l.name, &l.full, &l.locked, &l.stamp, &l.picture, &l.avatar, &l.trouble); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

const selectSubject = `SELECT user_id FROM id_directory_people WHERE directory = $1 AND subject = $2`

// loadSubject finds the account of a person. Errors: account.ErrNoUser.
func loadSubject(q store.Querier, directory, subject string) (userID string, err error) {
	err = q.QueryRow(selectSubject, directory, subject).Scan(&userID)
	if errors.Is(err, store.ErrNotFound) {
		err = account.ErrNoUser
	}
	return userID, err
}

const insertLinkSQL = `INSERT INTO id_directory_people (directory, subject, user_id, name, full_name, locked) VALUES ($1, $2, $3, $4, $5, 0)`

func insertLink(tx *store.Tx, directory, subject, userID, name, full string) error {
	_, err := tx.Exec(insertLinkSQL, directory, subject, userID, name, full)
	return err
}

const updateLinkSQL = `UPDATE id_directory_people SET name = $3, full_name = $4, stamp = $5, picture = $6, avatar = $7, trouble = $8
WHERE directory = $1 AND subject = $2`

func updateLink(tx *store.Tx, l link) error {
	_, err := tx.Exec(updateLinkSQL, l.directory, l.subject, l.name, l.full, l.stamp, l.picture, l.avatar, l.trouble)
	return err
}

const forgetStampsSQL = `UPDATE id_directory_people SET stamp = '' WHERE directory = $1`

func forgetStamps(tx *store.Tx, directory string) error {
	_, err := tx.Exec(forgetStampsSQL, directory)
	return err
}

const updateLockedSQL = `UPDATE id_directory_people SET locked = $3 WHERE directory = $1 AND subject = $2`

func updateLocked(tx *store.Tx, directory, subject string, locked bool) error {
	_, err := tx.Exec(updateLockedSQL, directory, subject, locked)
	return err
}
