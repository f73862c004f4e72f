package unifiedpush

import (
	"context"

	"holdfast/store"
	"holdfast/store/sealed"
)

// phone is somebody's device that fetches notifications.
type phone struct {
	id                     int64
	userID, deviceID, name string
	created, lastSeen      int64
}

const phoneColumns = `SELECT id, user_id, device_id, name, created, last_seen FROM up_phones `

func scanPhone(scan func(...any) error) (p phone, err error) {
	return p, scan(&p.id, &p.userID, &p.deviceID, &p.name, &p.created, &p.lastSeen)
}

func phoneBySecret(q store.Querier, hash []byte) (phone, error) {
	return scanPhone(q.QueryRow(phoneColumns+`WHERE secret_hash = $1`, hash).Scan)
}

func phonesOf(q store.Querier, userID string) (out []phone, err error) {
	query, args := phoneColumns+`WHERE user_id = $1 ORDER BY id`, []any{userID}
	if userID == "" {
		query, args = phoneColumns+`ORDER BY user_id, id`, nil
	}
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPhone(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

func insertPhone(tx *store.Tx, p phone, hash []byte) error {
	_, err := tx.Exec(`INSERT INTO up_phones (id, user_id, device_id, name, secret_hash, created, last_seen) VALUES ($1, $2, $3, $4, $5, $6, 0)`,
		p.id, p.userID, p.deviceID, p.name, hash, p.created)
	return err
}

func deletePhones(tx *store.Tx, where string, args ...any) (ids []int64, err error) {
	rows, err := tx.Query(`DELETE FROM up_phones WHERE `+where+` RETURNING id`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func seePhone(tx *store.Tx, id, now int64) error {
	_, err := tx.Exec(`UPDATE up_phones SET last_seen = $2 WHERE id = $1`, id, now)
	return err
}

// topic is an endpoint of a phone.
type topic struct {
	id       int64
	name     string
	userID   string
	phoneID  int64 // 0: it has ended
	lastSeen int64
}

// purpose is what topics are sealed for: who has one may send to it.
const purpose = "topic"

// sealTopics seals those that an earlier version kept in clear.
func (s *Service) sealTopics(ctx context.Context) error {
	return sealed.Once(ctx, s.o.DB, "up_topics", func(tx *store.Tx) (bool, error) {
		return sealed.Rewrite(tx, "up_topics", "id", func(row map[string]any) error {
			row["topic"] = s.o.Secrets.Token(purpose, row["topic"].(string))
			return nil
		})
	})
}

func (s *Service) topicByName(q store.Querier, name string) (t topic, err error) {
	t.name = name
	err = q.QueryRow(`SELECT id, user_id, phone_id, last_seen FROM up_topics WHERE topic = $1`, s.o.Secrets.Token(purpose, name)).Scan(&t.id, &t.userID, &t.phoneID, &t.lastSeen)
	return t, err
}

func topicsOf(q store.Querier, phoneID int64) (n int, err error) {
	err = q.QueryRow(`SELECT count(*) FROM up_topics WHERE phone_id = $1`, phoneID).Scan(&n)
	return n, err
}

const claimTopicSQL = `INSERT INTO up_topics (id, topic, user_id, phone_id, last_seen) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (topic) DO UPDATE SET phone_id = excluded.phone_id, last_seen = excluded.last_seen RETURNING id`

// claimTopic gives a topic to a phone. A new one gets the ID next.
func (s *Service) claimTopic(tx *store.Tx, next int64, name string, p phone, now int64) (id int64, err error) {
	err = tx.QueryRow(claimTopicSQL, next, s.o.Secrets.Token(purpose, name), p.userID, p.id, now).Scan(&id)
	return id, err
}

func moveMessages(tx *store.Tx, topicID, phoneID int64) error {
	_, err := tx.Exec(`UPDATE up_messages SET phone_id = $2 WHERE topic_id = $1 AND phone_id <> $2`, topicID, phoneID)
	return err
}

func seeTopic(tx *store.Tx, id, now int64) error {
	_, err := tx.Exec(`UPDATE up_topics SET last_seen = $2 WHERE id = $1`, id, now)
	return err
}

func endTopics(tx *store.Tx, phoneID, now int64) error {
	_, err := tx.Exec(`UPDATE up_topics SET phone_id = 0, last_seen = $2 WHERE phone_id = $1`, phoneID, now)
	return err
}

func endUnused(tx *store.Tx, before, now int64) error {
	_, err := tx.Exec(`UPDATE up_topics SET phone_id = 0, last_seen = $2 WHERE phone_id <> 0 AND last_seen < $1`, before, now)
	return err
}

func forgetEnded(tx *store.Tx, before int64) error {
	_, err := tx.Exec(`DELETE FROM up_topics WHERE phone_id = 0 AND last_seen < $1`, before)
	return err
}

// message is what was pushed to a topic.
type message struct {
	id          int64
	msgID       string
	topicID     int64
	ts, expires int64
	body        []byte
}

func insertMessage(tx *store.Tx, m message, phoneID int64) error {
	_, err := tx.Exec(`INSERT INTO up_messages (id, msg_id, topic_id, phone_id, ts, expires, body) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		m.id, m.msgID, m.topicID, phoneID, m.ts, m.expires, m.body)
	return err
}

// What deleteMessages deletes.
const (
	expiredMessages = `id IN (SELECT id FROM up_messages WHERE expires <= $1 ORDER BY expires LIMIT $2)`
	oldestMessages  = `id IN (SELECT id FROM up_messages ORDER BY id LIMIT $1)`
	messagesOfPhone = `phone_id = $1`
	orphans         = `topic_id IN (SELECT id FROM up_topics WHERE phone_id = 0)`
	beyondTopic     = `topic_id = $1 AND id <= (SELECT id FROM up_messages WHERE topic_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)`
	beyondPhone     = `phone_id = $1 AND id <= (SELECT id FROM up_messages WHERE phone_id = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)`
)

func deleteMessages(tx *store.Tx, where string, args ...any) (n int, size int64, err error) {
	rows, err := tx.Query(`DELETE FROM up_messages WHERE `+where+` RETURNING length(body)`, args...)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var b int64
		if err := rows.Scan(&b); err != nil {
			return 0, 0, err
		}
		n, size = n+1, size+b
	}
	return n, size, rows.Err()
}

func storedBytes(q store.Querier) (n int64, err error) {
	err = q.QueryRow(`SELECT coalesce(sum(length(body)), 0) FROM up_messages`).Scan(&n)
	return n, err
}

func countAll(q store.Querier, now int64, out *Stats) error {
	return q.QueryRow(`SELECT (SELECT count(*) FROM up_phones), (SELECT count(*) FROM up_topics WHERE phone_id <> 0), (SELECT count(*) FROM up_messages WHERE expires > $1)`, now).
		Scan(&out.Phones, &out.Topics, &out.Waiting)
}

// lastIDs are the highest IDs of phones, topics and messages.
func lastIDs(q store.Querier) (phones, topics, messages int64, err error) {
	err = q.QueryRow(`SELECT (SELECT coalesce(max(id), 0) FROM up_phones), (SELECT coalesce(max(id), 0) FROM up_topics), (SELECT coalesce(max(id), 0) FROM up_messages)`).
		Scan(&phones, &topics, &messages)
	return phones, topics, messages, err
}

// lastMessage is the number of the newest message of all.
func lastMessage(q store.Querier) (id int64, err error) {
	err = q.QueryRow(`SELECT coalesce(max(id), 0) FROM up_messages`).Scan(&id)
	return id, err
}

// messageNumber is the number of a message that one of the topics has.
func messageNumber(q store.Querier, msgID string, topics []int64) (id int64, err error) {
	err = q.QueryRow(`SELECT coalesce(max(id), 0) FROM up_messages WHERE topic_id IN `+store.In(2, len(topics))+` AND msg_id = $1`, store.Args([]any{msgID}, topics)...).Scan(&id)
	return id, err
}

const listMessages = `SELECT id, msg_id, topic_id, ts, expires, body FROM up_messages WHERE id > $1 AND ts >= $2 AND expires > $3 AND topic_id IN `

func messagesAfter(q store.Querier, after, since, now int64, topics []int64) (out []message, err error) {
	rows, err := q.Query(listMessages+store.In(4, len(topics))+` ORDER BY id LIMIT 50`, store.Args([]any{after, since, now}, topics)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var m message
		if err := rows.Scan(&m.id, &m.msgID, &m.topicID, &m.ts, &m.expires, &m.body); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, rows.Err()
}

// latest are the newest messages of each topic.
func latest(q store.Querier, now int64, topics []int64) (out []message, err error) {
	for _, id := range topics {
		var m message
		err := q.QueryRow(`SELECT id, msg_id, topic_id, ts, expires, body FROM up_messages WHERE topic_id = $1 AND expires > $2 ORDER BY id DESC LIMIT 1`, id, now).
			Scan(&m.id, &m.msgID, &m.topicID, &m.ts, &m.expires, &m.body)
		switch {
		case err == nil:
			out = append(out, m)
		case err != store.ErrNotFound:
			return nil, err
		}
	}
	return out, nil
}
