"""The parts of `data_scripts.prepare`: blocks of rows → checked in workers → committed to the folder in order."""
