-- What an exchange cost by the prices that the tenant had when it was recorded; NULL where it had none for the model.
ALTER TABLE run ADD COLUMN cost DOUBLE PRECISION;
