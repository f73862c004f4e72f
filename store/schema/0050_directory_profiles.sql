-- What was last taken over of the picture of somebody in a directory.
ALTER TABLE id_directory_people ADD COLUMN stamp TEXT NOT NULL DEFAULT '';   -- of the entry when its picture was last read; '': it is to be read
ALTER TABLE id_directory_people ADD COLUMN picture TEXT NOT NULL DEFAULT ''; -- SHA-256 of it, in hex; '': none
ALTER TABLE id_directory_people ADD COLUMN avatar TEXT NOT NULL DEFAULT '';  -- mxc:// address that it was stored under
ALTER TABLE id_directory_people ADD COLUMN trouble TEXT NOT NULL DEFAULT ''; -- why the one there is now is not taken; '': it is
