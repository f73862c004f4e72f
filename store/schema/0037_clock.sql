-- The latest time that was seen, so that what has expired stays so when the machine's
-- clock is set back.
-- owner: identity/clock
CREATE TABLE id_clock (
	id         INTEGER PRIMARY KEY CHECK (id = 1),
	high_water INTEGER NOT NULL -- ms since 1970
);
