package devices

import "holdfast/store"

const insertDeviceSQL = `INSERT INTO devices (user_id, device_id, display_name, created_ts) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`

// insertDevice returns how many rows it added: 0 when the device exists.
func insertDevice(tx *store.Tx, userID, deviceID, name string, now int64) (int64, error) {
	return tx.Exec(insertDeviceSQL, userID, deviceID, name, now)
}

const updateNameSQL = `UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2`

func updateName(tx *store.Tx, userID, deviceID, name string) error {
	_, err := tx.Exec(updateNameSQL, userID, deviceID, name)
	return err
}

const updateSeenSQL = `UPDATE devices SET seen_ts = $3, seen_ip = $4, seen_agent = $5 WHERE user_id = $1 AND device_id = $2`

func updateSeen(tx *store.Tx, userID, deviceID string, ts int64, ip, agent string) error {
	_, err := tx.Exec(updateSeenSQL, userID, deviceID, ts, ip, agent)
	return err
}

const deleteDeviceSQL = `DELETE FROM devices WHERE user_id = $1 AND device_id = $2`

func deleteDevice(tx *store.Tx, userID, deviceID string) (int64, error) {
	return tx.Exec(deleteDeviceSQL, userID, deviceID)
}

const deviceColumns = `user_id, device_id, display_name, created_ts, seen_ts, seen_ip, seen_agent FROM devices WHERE user_id = $1`

const loadDeviceSQL = `SELECT ` + deviceColumns + ` AND device_id = $2`

func loadDevice(q store.Querier, userID, deviceID string) (d Device, err error) {
	err = q.QueryRow(loadDeviceSQL, userID, deviceID).
		Scan(&d.UserID, &d.ID, &d.DisplayName, &d.CreatedTS, &d.SeenTS, &d.SeenIP, &d.SeenAgent)
	return d, err
}

const listDevicesSQL = `SELECT ` + deviceColumns + ` ORDER BY created_ts, device_id`

func listDevices(q store.Querier, userID string) (out []Device, err error) {
	rows, err := q.Query(listDevicesSQL, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d Device
		if err := rows.Scan(&d.UserID, &d.ID, &d.DisplayName, &d.CreatedTS, &d.SeenTS, &d.SeenIP, &d.SeenAgent); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

const listNamesSQL = `SELECT device_id, display_name FROM devices WHERE user_id = $1`

func listNames(q store.Querier, userID string) (map[string]string, error) {
	rows, err := q.Query(listNamesSQL, userID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]string{}
	for rows.Next() {
		var id, name string
		if err := rows.Scan(&id, &name); err != nil {
			return nil, err
		}
		out[id] = name
	}
	return out, rows.Err()
}

func listIDs(q store.Querier, userID string) ([]string, error) {
	names, err := listNames(q, userID)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(names))
	for id := range names {
		out = append(out, id)
	}
	return out, nil
}

func listLastSeen(q store.Querier) (map[string]int64, error) {
	rows, err := q.Query(`SELECT user_id, max(seen_ts) FROM devices GROUP BY user_id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]int64{}
	for rows.Next() {
		var id string
		var ts int64
		if err := rows.Scan(&id, &ts); err != nil {
			return nil, err
		}
		out[id] = ts
	}
	return out, rows.Err()
}
