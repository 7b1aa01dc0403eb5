-- Annotations before the cursor that waited for a vector when the newest version was queued: it has not learnt from
-- them, so they count for the next one.
ALTER TABLE models ADD COLUMN pending_annotations bigint NOT NULL DEFAULT 0;
