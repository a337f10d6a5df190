package mockapi

// What seed 1 gives for index 41.
const (
	goldenOrder = `{"id":42,"number":"F-00000042","account":9007199254741075,"status":"draft","created_at":"2024-01-01T00:18:12Z","updated_at":"2024-01-01T00:53:31Z","currency":"USD","customer":{"id":1424,"email":"grace1424@example.com","name":"Grace Kowalski","country":"CZ"},"lines":[{"sku":"SKU-00736","title":"Signal flare","qty":8,"price":0.40},{"sku":"SKU-00532","title":"Fender (blau)","qty":4,"price":194.70},{"sku":"SKU-00693","title":"Life vest","qty":6,"price":158.00}],"note":null}`
	goldenUser  = `{"id":"usr_00000042","name":"Nuño Öztürk","email":"nuno41@example.com","phone":"+49 431 951708","address":{"street":"Rue de la Paix 163","city":"Kiel","zip":"10003","geo":{"lat":4.2159,"lng":119.7389}},"tags":[],"active":true,"created_at":"2023-11-30T12:12:01Z","updated_at":"2024-01-01T00:53:31Z","deleted_at":null}`
	goldenEvent = `{"id":"evt_0000000042","type":"order.paid","order_id":6542,"revision":1,"note":"","updated_at":"2024-01-01T00:53:31Z"}`
	goldenValue = `465`
)
