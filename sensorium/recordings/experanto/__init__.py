"""Sessions in Experanto's folder format, read and written (https://github.com/sensorium-competition/experanto)."""
